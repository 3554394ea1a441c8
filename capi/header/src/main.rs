//! `header SOURCE HEADER`: writes the C header of the functions in SOURCE to HEADER.

use std::process::ExitCode;

use cbindgen::{Builder, Config, DocumentationStyle, EnumConfig, Language, Style};

fn main() -> ExitCode {
    let [source, header] = match std::env::args().skip(1).collect::<Vec<_>>().try_into() {
        Ok(arguments) => arguments,
        Err(_) => {
            eprintln!("header: two arguments: the Rust source and the C header");
            return ExitCode::from(2);
        }
    };
    let names = [
        ("Door", "healthz"),
        ("HealthzCheck", "healthz_check"),
        ("HealthzOptions", "healthz_options"),
        ("HealthzCounters", "healthz_counters"),
        ("HealthzResult", "healthz_result"),
    ];
    let mut config = Config {
        language: Language::C,
        style: Style::Tag,
        cpp_compat: true,
        documentation_style: DocumentationStyle::C99,
        include_guard: Some("HEALTHZ_H".into()),
        line_length: 100,
        usize_is_size_t: true,
        no_includes: true,
        sys_includes: vec!["stddef.h".into(), "stdint.h".into()],
        enumeration: EnumConfig::default(),
        header: Some(
            "// healthz: /healthz, /livez and /readyz, answered from your own loop.\n\
             // Made from src/capi/mod.rs by `make -C capi header`; changes belong there.\n\
             //\n\
             // In this order: healthz_create(), healthz_add_...(), healthz_listen(), healthz_start(); then,\n\
             // whenever healthz_fd() is readable or healthz_timeout() is over, healthz_turn(); at the end\n\
             // healthz_destroy(). capi/example.c is a whole program.\n\
             //\n\
             // Functions that take a door are called by one thread at a time; those that take a check by any\n\
             // thread, and in signal handlers, as long as the door lives. No pointer of yours is kept, but for\n\
             // the memory given to healthz_create_in(). SIGPIPE is not raised, no thread is started, nothing is\n\
             // printed (but for a bug's last words), and no descriptor is inherited by children."
                .into(),
        ),
        ..Config::default()
    };
    config.export.rename = names.map(|(rust, c)| (rust.into(), c.into())).into();
    let made = Builder::new()
        .with_config(config)
        .with_src(&source)
        .generate();
    match made {
        Ok(bindings) => {
            bindings.write_to_file(&header);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("header: {source}: {error}");
            ExitCode::FAILURE
        }
    }
}
