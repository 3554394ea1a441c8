//! Manual pages and completions for shells, which follow from the tables of commands and of kinds of checks.
//!
//! Only for tests, so the program has none of it. `HEALTHZ_WRITE=1 cargo test --bin healthz manual` writes what the
//! tests compare: completions as whole files, and in pages the parts between `.\" made: NAME` and `.\" end`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::sources::config::{GENERIC, KINDS, KindDef, OptionDef};
use crate::usage::{COMMANDS, COMMON, Command, CommandOption, HELP, SERVE};

const WRITE: &str = "HEALTHZ_WRITE";
const MADE: &str = "made by a test in src/manual.rs from the table in src/usage.rs";
const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// What a shell can offer for a value.
#[derive(PartialEq)]
enum Values {
    Nothing,
    Files,
    Words(Vec<&'static str>),
}

fn values_of(option: &CommandOption) -> Values {
    match option.value {
        "FILE" | "PATH" => Values::Files,
        "LEVEL" => Values::Words(LEVELS.to_vec()),
        _ => Values::Nothing,
    }
}

fn values_of_arguments(command: &Command) -> Values {
    match command.arguments {
        _ if command.is(&HELP) => Values::Words(names()),
        "[FILE]" => Values::Files,
        _ => Values::Nothing,
    }
}

fn names() -> Vec<&'static str> {
    COMMANDS.iter().map(|command| command.name).collect()
}

fn options(command: &Command) -> impl Iterator<Item = &'static CommandOption> {
    command.options.iter().chain(COMMON)
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Compares `path` with `wanted`, or writes it.
fn compare(path: &str, wanted: &str) {
    let path = root().join(path);
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, wanted).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == wanted,
        "{} does not follow the tables: {WRITE}=1 cargo test --bin healthz manual",
        path.display()
    );
}

// Completions.

/// The options of a command as words: `-h`, `--help`.
fn flags(command: &Command) -> Vec<String> {
    let names = options(command).flat_map(|option| {
        let short = option.short.map(|letter| format!("-{letter}"));
        short.into_iter().chain([format!("--{}", option.long)])
    });
    names.collect()
}

fn bash() -> String {
    let mut text = format!(
        "# Completion of healthz for bash, {MADE}.\n\n_healthz() {{\n    \
         local current=${{COMP_WORDS[COMP_CWORD]}} previous=${{COMP_WORDS[COMP_CWORD - 1]}} command=serve words=\n    \
         COMPREPLY=()\n    \
         # Only the first word can be a command.\n    \
         if [[ $COMP_CWORD -gt 1 ]]; then\n        \
         case ${{COMP_WORDS[1]}} in\n            {}) command=${{COMP_WORDS[1]}} ;;\n        esac\n    fi\n    \
         case \"$command $previous\" in\n",
        names().join(" | ")
    );
    let mut others = Vec::new();
    for command in COMMANDS {
        for option in options(command).filter(|option| !option.value.is_empty()) {
            let name = format!("'{} --{}'", command.name, option.long);
            match values_of(option) {
                Values::Nothing => others.push(name),
                Values::Files => text += &format!("        {name}) _healthz_files; return ;;\n"),
                Values::Words(words) => {
                    let words = words.join(" ");
                    text += &format!("        {name}) _healthz_words \"{words}\"; return ;;\n");
                }
            }
        }
    }
    text += &format!("        {}) return ;;\n", others.join(" | \\\n        "));
    text += "    esac\n    case $command in\n";
    for command in COMMANDS {
        text += &format!(
            "        {}) words='{}' ;;\n",
            command.name,
            flags(command).join(" ")
        );
    }
    text += &format!(
        "    esac\n    [[ $COMP_CWORD -gt 1 ]] || words=\"{} $words\"\n    \
         case \"$command $current\" in\n        *' -'*) _healthz_words \"$words\" ;;\n",
        names().join(" ")
    );
    for command in COMMANDS.iter().filter(|command| !command.is(&SERVE)) {
        let values = match values_of_arguments(command) {
            Values::Nothing => continue,
            Values::Files => "_healthz_files".to_owned(),
            Values::Words(words) => format!("_healthz_words \"{}\"", words.join(" ")),
        };
        text += &format!("        '{} '*) {values} ;;\n", command.name);
    }
    text += "        *) _healthz_words \"$words\" ;;\n    esac\n}\n\n\
             _healthz_words() {\n    mapfile -t COMPREPLY < <(compgen -W \"$1\" -- \"$current\")\n}\n\n\
             _healthz_files() {\n    mapfile -t COMPREPLY < <(compgen -f -- \"$current\")\n    \
             compopt -o filenames 2>/dev/null\n}\n\n\
             complete -F _healthz healthz\n";
    text
}

/// `text` between single quotes of zsh, where `_arguments` gives a meaning to brackets and colons.
fn zsh_quoted(text: &str) -> String {
    let mut quoted = String::new();
    for character in text.chars() {
        match character {
            '[' | ']' | ':' | '\\' => quoted.extend(['\\', character]),
            '\'' => quoted += "'\\''",
            _ => quoted.push(character),
        }
    }
    quoted
}

fn zsh_values(values: &Values) -> String {
    match values {
        Values::Nothing => String::new(),
        Values::Files => "_files".to_owned(),
        Values::Words(words) => format!("({})", words.join(" ")),
    }
}

fn zsh() -> String {
    let mut text = format!(
        "#compdef healthz\n# Completion of healthz for zsh, {MADE}.\n\n\
         local command=serve\nlocal -a commands\ncommands=(\n"
    );
    for command in COMMANDS {
        let summary = zsh_quoted(command.summary);
        text += &format!("    '{}:{summary}'\n", command.name);
    }
    text += &format!(
        ")\n# Only the first word can be a command.\n\
         if (( CURRENT == 2 )) && [[ $words[2] != -* ]]; then\n    _describe command commands\n    return\nfi\n\
         case $words[2] in\n    ({})\n        command=$words[2]\n        shift words\n        (( CURRENT-- ))\n        \
         ;;\nesac\ncase $command in\n",
        names().join("|")
    );
    for command in COMMANDS {
        text += &format!("    ({})\n        _arguments -s", command.name);
        for option in options(command) {
            let help = zsh_quoted(option.text);
            let value = match option.value {
                "" => String::new(),
                value => format!(":{}:{}", zsh_quoted(value), zsh_values(&values_of(option))),
            };
            let equals = if value.is_empty() { "" } else { "=" };
            if let Some(letter) = option.short {
                text += &format!(" \\\n            '*-{letter}[{help}]{value}'");
            }
            text += &format!(
                " \\\n            '*--{}{equals}[{help}]{value}'",
                option.long
            );
        }
        let values = zsh_values(&values_of_arguments(command));
        if !values.is_empty() {
            let arguments = zsh_quoted(command.arguments.trim_matches(['[', ']']));
            text += &format!(" \\\n            '1:{arguments}:{values}'");
        }
        text += "\n        ;;\n";
    }
    text + "esac\n"
}

fn fish_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

fn fish() -> String {
    let mut text = format!(
        "# Completion of healthz for fish, {MADE}.\n\n\
         # Only the first word can be a command.\n\
         function __healthz_command\n    set -l words (commandline -opc)\n    \
         if set -q words[2]; and contains -- $words[2] {0}\n        echo $words[2]\n    else\n        \
         echo serve\n    end\nend\n\n\
         function __healthz_is\n    test (__healthz_command) = $argv[1]\nend\n\n\
         function __healthz_is_first\n    test (count (commandline -opc)) = 1\nend\n\n\
         complete -c healthz -f\n",
        names().join(" ")
    );
    for command in COMMANDS {
        text += &format!(
            "complete -c healthz -n __healthz_is_first -a {} -d {}\n",
            command.name,
            fish_quoted(command.summary)
        );
    }
    for command in COMMANDS {
        let condition = format!("complete -c healthz -n '__healthz_is {}'", command.name);
        for option in options(command) {
            let short = option
                .short
                .map_or_else(String::new, |letter| format!(" -s {letter}"));
            let values = match values_of(option) {
                _ if option.value.is_empty() => String::new(),
                Values::Nothing => " -x".to_owned(),
                Values::Files => " -r -F".to_owned(),
                Values::Words(words) => format!(" -x -a '{}'", words.join(" ")),
            };
            let help = fish_quoted(option.text);
            text += &format!("{condition}{short} -l {}{values} -d {help}\n", option.long);
        }
        match values_of_arguments(command) {
            Values::Nothing => {}
            Values::Files => text += &format!("{condition} -F\n"),
            Values::Words(words) => text += &format!("{condition} -a '{}'\n", words.join(" ")),
        }
    }
    text
}

#[test]
fn the_completions_follow_the_table() {
    let levels = SERVE.options.iter().find(|option| option.value == "LEVEL");
    let text = levels.map_or("", |option| option.text);
    assert!(LEVELS.iter().all(|level| text.contains(level)), "{text}");
    compare("packaging/completions/healthz.bash", &bash());
    compare("packaging/completions/_healthz", &zsh());
    compare("packaging/completions/healthz.fish", &fish());
}

// Manual pages, in the mdoc language.

/// `text` as a line of text or as arguments of a macro.
fn mdoc(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-")
}

fn page_of(command: &Command) -> PathBuf {
    let own = format!("packaging/man/healthz-{}.1", command.name);
    let own = root().join(own);
    match own.exists() {
        true => own,
        false => root().join("packaging/man/healthz.1"),
    }
}

/// The line of a page that begins a part, without the name.
const BEGIN: &str = ".\\\" made: ";
const END: &str = ".\\\" end";

/// The part `name` of a page: `commands`, `synopsis COMMAND`, `options COMMAND`, `kinds` or `every kind`.
fn part(name: &str) -> Option<String> {
    let command = |name: &str| COMMANDS.iter().find(|command| command.name == name);
    Some(match name.split_once(' ') {
        Some(("synopsis", name)) => synopsis(command(name)?),
        Some(("options", name)) => command_options(command(name)?),
        _ if name == "commands" => commands(),
        _ if name == "kinds" => KINDS.iter().map(kind).collect(),
        _ if name == "every kind" => generic(),
        _ => return None,
    })
}

fn commands() -> String {
    let mut text = String::from(".Bl -tag -width check-config\n");
    for command in COMMANDS {
        text += &format!(".It Cm {}\n{}\n", mdoc(command.name), mdoc(command.summary));
    }
    text + ".El\n"
}

fn synopsis(command: &Command) -> String {
    let name = match command.is(&SERVE) {
        true => String::new(),
        false => format!(".Cm {}\n", mdoc(command.name)),
    };
    let mut text = format!(".Nm healthz\n{name}");
    if !command.options.is_empty() {
        text += ".Op Ar OPTION ...\n";
    }
    for word in command.arguments.split_whitespace() {
        let (word, is_opened) = word
            .strip_prefix('[')
            .map_or((word, false), |word| (word, true));
        let (word, is_closed) = word
            .strip_suffix(']')
            .map_or((word, false), |word| (word, true));
        let word = match word.strip_suffix("...") {
            Some(word) => format!(".Ar {} ...\n", mdoc(word)),
            None if word.starts_with('-') => format!(".Cm {}\n", mdoc(word)),
            None => format!(".Ar {}\n", mdoc(word)),
        };
        text += if is_opened { ".Oo\n" } else { "" };
        text += &word;
        text += if is_closed { ".Oc\n" } else { "" };
    }
    text
}

fn command_options(command: &Command) -> String {
    let mut text = String::from(".Bl -tag -width indent\n");
    for option in options(command) {
        text += ".It";
        if let Some(letter) = option.short {
            text += &format!(" Fl {letter} ,");
        }
        text += &format!(" Fl \\-{}", mdoc(option.long));
        if !option.value.is_empty() {
            text += &format!(" Ar {}", mdoc(option.value));
        }
        text += &format!("\n{}\n", mdoc(option.text));
        if !option.default.is_empty() {
            text += &format!(".Pq default: {}\n", mdoc(option.default));
        }
    }
    text + ".El\n"
}

fn check_option(option: &OptionDef, default: &str) -> String {
    let default = match default {
        "" => String::new(),
        default => format!(".Pq default: {}\n", mdoc(default)),
    };
    format!(
        ".It Cm {}\n{}\n{default}",
        mdoc(option.name),
        mdoc(option.help)
    )
}

fn generic() -> String {
    let mut text = String::from(".Bl -tag -width indent\n");
    for option in GENERIC {
        text += &check_option(option, option.default);
    }
    text + ".El\n"
}

fn kind(kind: &KindDef) -> String {
    let argument = match kind.argument.name {
        "" => "true",
        argument => argument,
    };
    let is_required = kind.argument.is_required || kind.argument.name.is_empty();
    let other = if is_required { "" } else { ", or true" };
    let mut text = format!(
        ".Ss {}\n{}\n.Pp\n.Dl {} = {}{other}\n",
        kind.name,
        mdoc(kind.help),
        kind.name,
        mdoc(argument)
    );
    let own: Vec<_> = GENERIC
        .iter()
        .filter(|option| kind.default_of(option) != option.default)
        .collect();
    if kind.options.is_empty() && own.is_empty() {
        return text;
    }
    text += ".Bl -tag -width indent\n";
    for option in kind.options {
        text += &check_option(option, kind.default_of(option));
    }
    for option in own {
        text += &format!(
            ".It Cm {}\nas for every kind\n.Pq default: {}\n",
            mdoc(option.name),
            mdoc(kind.default_of(option))
        );
    }
    text + ".El\n"
}

/// A page with its made parts as they should be, and the names of the parts.
fn page(text: &str) -> (String, Vec<String>) {
    let (mut page, mut names, mut is_made) = (String::new(), Vec::new(), false);
    for line in text.lines() {
        if line == END {
            is_made = false;
        }
        if !is_made {
            page.extend([line, "\n"]);
        }
        if let Some(name) = line.strip_prefix(BEGIN) {
            page += &part(name).unwrap_or_else(|| panic!("no part {name}"));
            names.push(name.to_owned());
            is_made = true;
        }
    }
    assert!(!is_made, "a made part has no end");
    (page, names)
}

#[test]
fn the_pages_follow_the_tables() {
    let mut names = Vec::new();
    for entry in fs::read_dir(root().join("packaging/man")).unwrap() {
        let path = Path::new("packaging/man").join(entry.unwrap().file_name());
        let (page, more) = page(&fs::read_to_string(root().join(&path)).unwrap());
        compare(path.to_str().unwrap(), &page);
        names.extend(more);
    }
    for wanted in ["commands", "kinds", "every kind"] {
        assert!(
            names.iter().any(|name| name == wanted),
            "no page has {wanted}"
        );
    }
}

#[test]
fn every_command_has_its_options_in_a_page() {
    for command in COMMANDS {
        let path = page_of(command);
        let text = fs::read_to_string(&path).unwrap();
        for part in ["synopsis", "options"] {
            let line = format!("{BEGIN}{part} {}\n", command.name);
            let is_there =
                text.contains(&line) || (command.options.is_empty() && part == "options");
            assert!(is_there, "{} has not: {line}", path.display());
        }
    }
}

/// Exit codes are prose in the page, so only their numbers are compared.
#[test]
fn every_exit_code_of_the_help_is_in_the_page() {
    for command in COMMANDS {
        let text = fs::read_to_string(page_of(command)).unwrap();
        let notes = command
            .notes
            .iter()
            .skip_while(|note| !note.contains("Exit:"));
        let codes = notes.flat_map(|note| note.split([' ', ',']));
        for code in codes.filter(|word| word.parse::<u8>().is_ok()) {
            let line = format!("\n.It {code}\n");
            assert!(
                text.contains(&line),
                "{}: no exit code {code}",
                command.name
            );
        }
    }
}
