//! Accepted configurations, the messages for refused ones, and the round trip through `check-config`.

use std::collections::BTreeSet;
use std::path::Path;

use super::super::spec::*;
use super::table::{Argument, KINDS};
use super::*;

const PATH: &str = "/etc/healthz.toml";

fn arguments(checks: &[&str]) -> Result<Vec<Spec>, Vec<String>> {
    let checks: Vec<OsString> = checks.iter().map(OsString::from).collect();
    parse(&checks, None).map_err(texts)
}

fn file(text: &str) -> Result<Vec<Spec>, Vec<String>> {
    parse(&[], Some((Path::new(PATH), text.as_bytes()))).map_err(texts)
}

fn texts(mistakes: Vec<Mistake>) -> Vec<String> {
    mistakes.iter().map(Mistake::to_string).collect()
}

/// The spec of one argument.
#[track_caller]
fn argument(check: &str) -> Spec {
    let mut specs = arguments(&[check]).unwrap();
    assert_eq!(specs.len(), 1);
    specs.remove(0)
}

/// The spec of a file with one check.
#[track_caller]
fn table(text: &str) -> Spec {
    let mut specs = file(text).unwrap();
    assert_eq!(specs.len(), 1);
    specs.remove(0)
}

/// The only mistake of an argument.
#[track_caller]
fn refused(check: &str) -> String {
    let mut mistakes = arguments(&[check]).unwrap_err();
    assert_eq!(mistakes.len(), 1, "{mistakes:#?}");
    mistakes.remove(0)
}

/// An argument for each kind, with the same in a file.
const SAME: &[(&str, &str)] = &[
    ("x=heartbeat", "heartbeat = true"),
    (
        "x=heartbeat,limit=26h,socket=@x,mode=0660,uid=1000,until-ready=pass,forward=/run/systemd/notify",
        "heartbeat = true\nlimit = '26h'\nsocket = '@x'\nmode = 0o660\nuid = 1000\nuntil-ready = 'pass'\nforward = '/run/systemd/notify'",
    ),
    (
        "x=file:/a\\,b,max-age=7d,contains=a b,min-size=1Ki",
        "file = '/a,b'\nmax-age = '7d'\ncontains = 'a b'\nmin-size = 1024",
    ),
    ("x=process:/run/x.pid", "process = '/run/x.pid'"),
    (
        "x=process:exe:nginx,min=3",
        "process = 'exe:nginx'\nmin = 3",
    ),
    (
        "x=tcp:[::1]:6379,send=PING\\r\\n,expect=\\x2bPONG",
        "tcp = '[::1]:6379'\nsend = \"PING\\r\\n\"\nexpect = '+PONG'",
    ),
    ("x=tcp:localhost:1", "tcp = 'localhost:1'"),
    (
        "x=unix:@abstract,expect=a\\\\b",
        "unix = '@abstract'\nexpect = 'a\\\\b'",
    ),
    (
        "x=http:http://localhost/a?b=1\\,c,status=200-299,404,contains=ok,header=A: b, c,header=D:e,host=a.example",
        "http = 'http://localhost/a?b=1,c'\nstatus = ['200-299', 404]\ncontains = 'ok'\nheader = ['A: b, c', 'D: e']\nhost = 'a.example'",
    ),
    (
        "x=exec:/bin/check -q  --x=1,user=daemon,env=A=b=c,env=D=",
        "exec = ['/bin/check', '-q', '--x=1']\nuser = 'daemon'\nenv = { A = 'b=c', D = '' }",
    ),
    (
        "x=exec:/bin/mount -o rw,size=1",
        "exec = '/bin/mount -o rw,size=1'",
    ),
    (
        "x=pressure:io,kind=full,stall=100ms,window=1s,scope=cgroup:/system.slice/x",
        "pressure = 'io'\nkind = 'full'\nstall = '100ms'\nwindow = '1s'\nscope = 'cgroup:system.slice/x'",
    ),
    (
        "x=memory,min=2.5%,scope=cgroup",
        "memory = true\nmin = '2.5%'\nscope = 'cgroup'",
    ),
    (
        "x=disk:/var,min=2Gi,min-inodes=1000",
        "disk = '/var'\nmin = '2048Mi'\nmin-inodes = 1000",
    ),
    (
        "x=pids,min=100,max=95%",
        "pids = true\nmin = 100\nmax = '95%'",
    ),
    ("x=pids:/run/x.pid", "pids = '/run/x.pid'"),
    ("x=fds:exe:/usr/sbin/nginx", "fds = 'exe:/usr/sbin/nginx'"),
    ("x=fds,max=100%", "fds = true\nmax = '100%'"),
    (
        "x=clock,max-error=100ms",
        "clock = true\nmax-error = '100ms'",
    ),
    (
        "x=mount:/mnt,mounted=false,rw=false",
        "mount = '/mnt'\nmounted = false\nrw = false",
    ),
    (
        "x=temperature:thermal_zone0,max=85.5C",
        "temperature = 'thermal_zone0'\nmax = '85.5C'",
    ),
    (
        "x=clock,initial-delay=1s,period=20s,timeout=2s,success-threshold=2,failure-threshold=3/5,endpoints=livez+readyz,group=g,severity=warning,unsupported=skip",
        "clock = true\ninitial-delay = '1s'\nperiod = '20s'\ntimeout = '2s'\nsuccess-threshold = 2\nfailure-threshold = '3/5'\nendpoints = ['livez', 'readyz']\ngroup = 'g'\nseverity = 'warning'\nunsupported = 'skip'",
    ),
];

#[test]
fn the_command_line_and_the_file_say_the_same() {
    for (check, text) in SAME {
        assert_eq!(
            argument(check),
            table(&format!("[check.x]\n{text}")),
            "{check}"
        );
    }
    let kinds: BTreeSet<&str> = SAME
        .iter()
        .map(|(check, _)| build::parts(&argument(check).kind).kind)
        .collect();
    assert_eq!(kinds.len(), KINDS.len(), "{kinds:?}");
}

#[test]
fn what_check_config_prints_parses_to_the_same_specs() {
    for (check, _) in SAME {
        let specs = arguments(&[check]).unwrap();
        let printed = print(&specs);
        assert_eq!(file(&printed).as_ref(), Ok(&specs), "{printed}");
        assert_eq!(print(&file(&printed).unwrap()), printed);
    }
    let specs = arguments(&[
        "b=clock",
        "a/b.c=file:/\u{1b}\"'\u{202e}\u{e9}\\x",
        "a=memory",
    ])
    .unwrap();
    let printed = print(&specs);
    assert!(printed.contains("[check.\"a/b.c\"]"), "{printed}");
    assert!(!printed.contains(['\u{1b}', '\u{202e}']), "{printed}");
    assert_eq!(file(&printed), Ok(specs));
}

/// Where several forms of a value are accepted, one is printed, and the value stays the same.
#[test]
fn values_are_printed_in_one_form() {
    for (check, line) in [
        (
            "x=http:http://[::1]/,header=A: b,header=C:d, hots=e",
            r#"header = ["A: b", "C: d, hots=e"]"#,
        ),
        ("x=exec:/bin/a,env=A=b,env=C=", r#"env = ["A=b", "C="]"#),
        (
            r"x=tcp:[::1]:1,send=\\ \r\n\t\x00\x9f",
            r#"send = "\\\\ \\r\\n\\t\\x00\\x9f""#,
        ),
        ("x=unix:/a,expect=it's", r#"expect = "it's""#),
        ("x=file:/\\a\"\r\n\tb", r#"file = "/\\a\"\r\n\tb""#),
        ("x=disk:/,failure-threshold=3", "failure-threshold = 3"),
        (
            "x=disk:/,failure-threshold=3/5",
            r#"failure-threshold = "3/5""#,
        ),
        ("x=clock,severity=warning", r#"severity = "warning""#),
        ("x=clock,unsupported=warn", r#"unsupported = "warn""#),
        ("x=clock,unsupported=skip", r#"unsupported = "skip""#),
        ("x=pressure:memory,stall=2s", r#"pressure = "memory""#),
        ("x=disk:/a,mIn=2", r#"disk = "/a,mIn=2""#),
    ] {
        let printed = print(&[argument(check)]);
        assert!(printed.starts_with("[check.x]\n"), "{printed}");
        assert!(printed.lines().any(|printed| printed == line), "{printed}");
    }
    assert!(print(&[argument("a_b-1=clock")]).starts_with("[check.a_b-1]\n"));
}

#[test]
fn values_have_bounds() {
    let long = |start: &str, length: usize| start.to_owned() + &"x".repeat(length - start.len());
    for (syntax, valid, invalid) in [
        (
            Syntax::Text,
            &["a", &long("", 1024)][..],
            &["", &long("", 1025)][..],
        ),
        (
            Syntax::Path,
            &["/", &long("/", 4095)],
            &["a", "/a\0", &long("/", 4096)],
        ),
        (
            Syntax::Socket,
            &["@a", &long("@", 107), &long("/", 107)],
            &[
                "",
                "@",
                "a",
                "@a\0",
                "/a\0",
                &long("@", 108),
                &long("/", 108),
            ],
        ),
        (
            Syntax::Scope,
            &["node", "cgroup", "cgroup:/a/b/", &long("cgroup:", 7 + 4095)],
            &[
                "cgroup:",
                "cgroup:a//b",
                "cgroup:.",
                "cgroup:a/../b",
                "cgroup:a\0",
                &long("cgroup:", 7 + 4096),
            ],
        ),
        (
            Syntax::Target,
            &["/a", "exe:/a/b", &long("exe:", 4 + 4095)],
            &[
                "a",
                "exe:",
                "exe:a/b",
                "exe:a\0",
                "exe:/a\0",
                &long("exe:", 4 + 4096),
                &long("exe:/", 4 + 4096),
            ],
        ),
        (
            Syntax::Zone,
            &["a b~", &long("", 64)],
            &["", ".a", "a/b", "a\n", "\u{e9}", &long("", 65)],
        ),
        (
            Syntax::User,
            &["_a-1.$", &long("", 32)],
            &["", "-a", "a b", "a:b", &long("", 33)],
        ),
        (
            Syntax::HostField,
            &["[::1]:80", "a-b_c~.d", &long("", 255)],
            &["", "a b", "a/b", &long("", 256)],
        ),
        (
            Syntax::Headers,
            &["A:", "A: b\tc~", &long("A:", 1024)],
            &[
                "A",
                ": a",
                "A b: c",
                "A: b\x7f",
                "A: b\n",
                "A: \u{e9}",
                "Host: a",
                "CONNECTION: close",
                "Te: a",
                &long("A:", 1025),
            ],
        ),
        (Syntax::Env, &["A=", "A=b=c"], &["A", "=b", "A=\0", "\0=a"]),
        (
            Syntax::Status,
            &["100", "599", "100-599", "200-200"],
            &["99", "600", "300-200", "99-200", "200-600", "200-"],
        ),
        (
            Syntax::Threshold,
            &["1", "32", "1/32"],
            &["0", "33", "0/1", "3/33", "33/32", "3/"],
        ),
        (
            Syntax::Mode,
            &["0", "0o777", "0777"],
            &["", "1000", "8", "-1", "+1"],
        ),
    ] {
        let reads = |text: &str| value::read(&syntax, &DeValue::String(text.into())).is_ok();
        for text in valid {
            assert!(reads(text), "{text:?}");
        }
        for text in invalid {
            assert!(!reads(text), "{text:?}");
        }
    }
    // Numbers that are not decimal: their digits mean something else.
    for (text, is_valid) in [
        ("heartbeat = true\nmode = 0o600", true),
        ("heartbeat = true\nmode = 600", false),
        ("heartbeat = true\nmode = 0x600", false),
        ("file = '/a'\nmin-size = 10", true),
        ("file = '/a'\nmin-size = 0x10", false),
    ] {
        assert_eq!(
            file(&format!("[check.x]\n{text}")).is_ok(),
            is_valid,
            "{text}"
        );
    }
}

#[test]
fn defaults_are_those_of_the_documentation() {
    let spec = argument("x=heartbeat");
    assert_eq!(
        spec,
        Spec {
            name: "x".into(),
            group: None,
            endpoints: Endpoints {
                healthz: true,
                livez: false,
                readyz: true
            },
            severity: Severity::Error,
            unsupported: Unsupported::Fail,
            timing: Timing {
                initial_delay: Duration::ZERO,
                period: Duration::from_secs(10),
                timeout: Duration::from_secs(1),
            },
            threshold: Threshold {
                success: 1,
                failures: 1,
                of_last: 1
            },
            kind: Kind::Heartbeat(Heartbeat {
                limit: Duration::from_secs(30),
                socket: "/run/healthz/x.sock".into(),
                mode: 0o600,
                uid: None,
                passes_until_ready: false,
                forward: None,
            }),
        }
    );
    let threshold = |check| argument(check).threshold;
    let steady = Threshold {
        success: 3,
        failures: 3,
        of_last: 3,
    };
    assert_eq!(threshold("x=disk:/"), steady);
    assert_eq!(threshold("x=pressure:cpu"), steady);
    assert_eq!(threshold("x=process:exe:x").failures, 1);
    assert_eq!(
        threshold("x=tcp:[::1]:1"),
        Threshold {
            success: 1,
            ..steady
        }
    );
    let timing = argument("x=exec:/bin/true").timing;
    assert_eq!(timing.period, Duration::from_secs(30));
    assert_eq!(timing.timeout, Duration::from_secs(5));
    let disk = Kind::Disk(Disk {
        path: "/".into(),
        min: Amount::Share(100),
        min_inodes: Amount::Share(50),
    });
    assert_eq!(argument("x=disk:/").kind, disk);
}

#[test]
fn every_default_is_valid_and_every_name_is_known_once() {
    let mut names = BTreeSet::new();
    for def in KINDS {
        let Argument {
            name, is_required, ..
        } = def.argument;
        assert!(!name.is_empty() || !is_required);
        assert!(names.insert(def.name), "{}", def.name);
        let options = || GENERIC.iter().chain(def.options);
        let unique: BTreeSet<&str> = options().map(|option| option.name).collect();
        assert_eq!(unique.len(), options().count(), "{}", def.name);
        for (name, _) in def.defaults {
            assert!(unique.contains(name), "{name}");
        }
        for option in options() {
            assert!(!option.help.is_empty() && !def.help.is_empty());
            let text = def.default_of(option).replace("NAME", "x");
            let value = value::read(&option.syntax, &DeValue::String(text.clone().into()));
            assert!(
                text.is_empty() || value.is_ok(),
                "{}: {value:?}",
                option.name
            );
        }
    }
    // A key of a table is either a kind or an option.
    for def in KINDS {
        for option in GENERIC.iter().chain(def.options) {
            assert!(!names.contains(option.name), "{}", option.name);
        }
    }
}

#[test]
fn a_timeout_that_is_not_written_is_at_most_the_period() {
    assert_eq!(
        argument("x=clock,period=200ms").timing.timeout,
        Duration::from_millis(200)
    );
    assert_eq!(
        refused("x=clock,period=2s,timeout=3s"),
        "--check x: timeout 3s: expected at most the period, which is 2s"
    );
    assert_eq!(
        refused("x=exec:/bin/true,timeout=31s"),
        "--check x: timeout 31s: expected at most the period, which is 30s"
    );
}

#[test]
fn defaults_of_the_file_apply_to_its_checks_only() {
    let text = "[check.a]\nclock = true\n[check.b]\nexec = '/bin/true'\nperiod = '2s'\n\
        [defaults]\nperiod = '5s'\ntimeout = '4s'\nseverity = 'warning'\n";
    let checks = [OsString::from("c=clock")];
    let specs = parse(&checks, Some((Path::new(PATH), text.as_bytes()))).unwrap();
    let seconds = |spec: &Spec| (spec.timing.period.as_secs(), spec.timing.timeout.as_secs());
    let names: Vec<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
    assert_eq!(names, ["c", "a", "b"]);
    let times: Vec<_> = specs.iter().map(seconds).collect();
    assert_eq!(times, [(10, 1), (5, 4), (2, 2)]);
    assert_eq!(specs[0].severity, Severity::Error);
    assert_eq!(specs[1].severity, Severity::Warning);
}

#[test]
fn checks_have_the_order_of_the_file() {
    let specs =
        file("[check.b]\nclock = true\n[check.a]\nclock = true\n[check]\nc.clock = true").unwrap();
    let names: Vec<_> = specs.iter().map(|spec| spec.name.as_str()).collect();
    assert_eq!(names, ["b", "a", "c"]);
}

#[test]
fn every_mistake_of_a_file_has_its_place_and_the_nearest_name() {
    let text = r#"
[default]
period = "5s"

[defaults]
perod = "5s"
limit = "3s"
timeout = "1 s"

[check.var]
disk = "var"
perod = "5s"
min = 10
min-inodes = ["5%"]

[check.web]
htttp = "http://localhost/"
severity = "loud"

[check.both]
tcp = "127.0.0.1:80"
unix = "/run/x"

[check.none]

[check.log]
clock = true

[check."a b"]
clock = false

[check.yes]
disk = true
mode = "0600"

[check.name]
tcp = "example.com:80"

[check.tls]
http = "https://127.0.0.1/"

[check.later]
heartbeat = "x"
  frobnicate = 1
"#;
    let want = [
        "2:2: unknown table default; did you mean defaults?",
        "6:1: unknown default perod; did you mean period?",
        "7:1: limit has no default for all checks; expected initial-delay, period, timeout, success-threshold, failure-threshold, endpoints, group, severity, unsupported",
        "8:11: timeout \"1 s\": expected 10ms to 1d, written as 500ms, 10s, 2m, 26h or 7d",
        "11:8: disk var: expected an absolute path",
        "12:1: unknown option perod of a disk check; did you mean period?",
        "14:14: min-inodes: expected a share such as 10%, or a whole number",
        "17:1: unknown kind htttp; did you mean http?",
        "18:12: severity loud: expected error or warning",
        "22:1: a check has one kind, and this one has tcp already",
        "24:8: none: one key must be its kind: heartbeat, file, process, tcp, unix, http, exec, pressure, memory, disk, pids, fds, clock, mount, temperature",
        "26:8: log: the daemon has a check of this name",
        "29:8: \"a b\": expected a name of letters, digits and . _ / -, of at most 127 characters",
        "30:9: a clock check has no argument: expected true",
        "33:8: a disk check needs PATH: expected an absolute path",
        "34:1: unknown option mode of a disk check; its own are min, min-inodes",
        "37:7: tcp example.com:80: expected IP:PORT or localhost:PORT, such as 127.0.0.1:5432; names are not resolved",
        "40:8: http https://127.0.0.1/: there is no TLS; use the service's http port, or exec with curl",
        "43:13: a heartbeat check has no argument: expected true",
        "44:3: unknown option frobnicate of a heartbeat check; its own are limit, socket, mode, uid, until-ready, forward",
    ];
    let want: Vec<String> = want.iter().map(|line| format!("{PATH}:{line}")).collect();
    assert_eq!(file(text), Err(want));
}

#[test]
fn syntax_errors_have_their_place_and_do_not_hide_other_mistakes() {
    let quoted = "string values must be quoted, expected literal string";
    for (text, want) in [
        (
            "[check.a]\nclock = true\nperiod = 10s\nperod = '1s'\n",
            &[
                &*format!("3:10: {quoted}"),
                "4:1: unknown option perod of a clock check; did you mean period?",
            ][..],
        ),
        ("[check.a]\ndisk = /var\n", &[&*format!("2:8: {quoted}")]),
        // One mistake a line.
        (
            "[check.a]\nclock = true\nperod = 10s\n",
            &[&*format!("3:9: {quoted}")],
        ),
        (
            "[defaut]\nperiod = 10s\n[foo]\n",
            &[
                "1:2: unknown table defaut; did you mean defaults?",
                &*format!("2:10: {quoted}"),
            ],
        ),
        (
            "[foo]\n",
            &["1:2: unknown table foo; expected [defaults] or [check.NAME]"],
        ),
        (
            "[check.a]\nclock\nperod = '1s'\n",
            &["2:6: key with no value, expected `=`"],
        ),
        // The next lines seem to belong to no table.
        (
            "[check.a\nclock = true\nperod = '1s'\n",
            &["1:9: unclosed table, expected `]`"],
        ),
        (
            "[check.a]\nclock = true\n[check.a]\nperiod = '1s'\n",
            &["3:8: duplicate key"],
        ),
        (
            "[check.a]\nclock = true\nperiod = \"1s\n[check.b]\nclock = 1\n",
            &[
                "3:13: invalid basic string, expected `\"`",
                "5:9: a clock check has no argument: expected true",
            ],
        ),
    ] {
        let want: Vec<String> = want.iter().map(|line| format!("{PATH}:{line}")).collect();
        assert_eq!(file(text), Err(want), "{text}");
    }
}

#[test]
fn mistakes_of_arguments_name_the_check() {
    for (check, want) in [
        (
            "x",
            "x: expected NAME=KIND:ARGUMENT,option=value, such as var=disk:/var,min=10%",
        ),
        (
            "=clock",
            "=clock: expected a name of letters, digits and . _ / -, of at most 127 characters",
        ),
        ("x=dsk:/var", "x: unknown kind dsk; did you mean disk?"),
        (
            "x=exec:/bin/a,limit=5s",
            "x: unknown option limit of an exec check; its own are user, env",
        ),
        (
            "x=http:ftp://127.0.0.1/",
            "x: http ftp://127.0.0.1/: expected a URL such as http://127.0.0.1:8080/ready",
        ),
        // The default period is no reason for another mistake.
        (
            "x=clock,period=1,timeout=11s",
            "x: period 1: expected 100ms to 1d, written as 500ms, 10s, 2m, 26h or 7d",
        ),
        // Regression: the kind was taken from the URL, and the message named a URL that was not written.
        (
            "x=http://127.0.0.1/",
            "x: http //127.0.0.1/: write the kind before the URL, as http:http://127.0.0.1:8080/ready",
        ),
        (
            "x=disk:/var,perod=5s",
            "x: unknown option perod of a disk check; did you mean period? (write \\, for a comma in the argument)",
        ),
        (
            "x=disk:/var,min=10%,perod=5s",
            "x: unknown option perod of a disk check; did you mean period?",
        ),
        ("x=disk:/var,min=10%,min=20%", "x: min is given twice"),
        (
            "x=disk:/var,limit=5s",
            "x: unknown option limit of a disk check; its own are min, min-inodes",
        ),
        (
            "x=disk",
            "x: a disk check needs PATH: expected an absolute path",
        ),
        ("x=disk:", "x: disk \"\": expected an absolute path"),
        (
            "x=heartbeat:a",
            "x: a heartbeat check has no argument; options follow after a comma",
        ),
        (
            "x=heartbeat,limit",
            "x: expected option=value after the comma",
        ),
        (
            "x=heartbeat,limt=3s",
            "x: unknown option limt of a heartbeat check; did you mean limit?",
        ),
        ("ping=clock", "ping: the daemon has a check of this name"),
        (
            "a b=clock",
            "\"a b\": expected a name of letters, digits and . _ / -, of at most 127 characters",
        ),
        (
            "x=disk:/,min=0,min-inodes=0%",
            "x: this check could never fail: min and min-inodes are 0",
        ),
        (
            "x=disk:/\u{1b}[2J,min=\u{1b}",
            "x: min \"\\u{1b}\": expected a share such as 10%, or a size such as 100Mi",
        ),
        (
            "x=exec:true",
            "x: exec true: expected the absolute path of a program, and its arguments",
        ),
        (
            "x=http:http://example.com/",
            "x: http http://example.com/: names are not resolved; use an IP address or localhost, and the option host",
        ),
        (
            "x=http:http://[::1]:0/",
            "x: http http://[::1]:0/: expected a port from 1 to 65535",
        ),
        (
            "x=tcp:127.0.0.1:0",
            "x: tcp 127.0.0.1:0: expected IP:PORT or localhost:PORT, such as 127.0.0.1:5432; names are not resolved",
        ),
        (
            "x=process:/run/x.pid,min=2",
            "x: min 2: a PID file names one process",
        ),
        (
            "x=clock,failure-threshold=5/3",
            "x: failure-threshold 5/3: 3 results never have 5 failures",
        ),
        (
            "x=heartbeat,socket=@x",
            "x: socket @x: every user can send to an abstract socket; set uid",
        ),
        (
            "x=pressure:io,stall=3s",
            "x: stall 3s: expected at most the window, which is 2s",
        ),
    ] {
        assert_eq!(refused(check), format!("--check {want}"), "{check}");
    }
}

#[test]
fn a_check_that_could_never_fail_is_refused() {
    for (check, can_fail) in [
        ("x=memory,min=0", false),
        ("x=memory,min=0%", false),
        ("x=memory,min=1", true),
        ("x=disk:/,min=0,min-inodes=0", false),
        ("x=disk:/,min=0", true),
        ("x=disk:/,min-inodes=0", true),
        ("x=pids,min=0,max=100%", false),
        ("x=pids,min=0,max=4194304", false),
        ("x=pids,min=0,max=4194303", true),
        ("x=pids,max=100%", true),
        ("x=fds,min=0%,max=100%", false),
        ("x=fds,min=0", true),
        ("x=http:http://[::1]/,status=100-599", false),
        ("x=http:http://[::1]/,status=300-599,100-299", false),
        ("x=http:http://[::1]/,status=100-599,contains=ok", true),
        ("x=http:http://[::1]/,status=100-299,301-599", true),
        ("x=pressure:cpu,kind=full", false),
        ("x=pressure:cpu,kind=full,scope=cgroup", true),
        ("x=temperature:a,max=100%", false),
        ("x=temperature:a,max=200C", false),
        ("x=temperature:a,max=99.9%", true),
    ] {
        match arguments(&[check]) {
            Ok(_) => assert!(can_fail, "{check}"),
            Err(mistakes) => {
                assert!(
                    !can_fail && mistakes[0].contains("could never fail"),
                    "{mistakes:?}"
                );
            }
        }
    }
    // Bounds that could not be crossed are no values.
    for check in [
        "x=process:exe:x,min=0",
        "x=clock,max-error=17s",
        "x=tcp:[::1]:1,expect=",
        "x=file:/x,min-size=0",
        "x=clock,endpoints=",
    ] {
        assert!(arguments(&[check]).is_err(), "{check}");
    }
}

#[test]
fn contradictions_are_at_the_option_or_at_the_name() {
    for (text, want) in [
        (
            "[check.x]\npressure = 'io'\nwindow = '1s'\nstall = '2s'",
            "4:9: stall 2s: expected at most the window, which is 1s",
        ),
        (
            "[check.a-b]\nheartbeat = true\n[check.'a/b']\nheartbeat = true",
            "3:8: socket /run/healthz/a-b.sock: the check a-b uses it already",
        ),
    ] {
        assert_eq!(file(text), Err(vec![format!("{PATH}:{want}")]));
    }
}

#[test]
fn names_and_sockets_are_taken_once() {
    assert_eq!(
        arguments(&["x=clock", "x=memory"]),
        Err(vec!["--check x: another check has this name".into()])
    );
    assert_eq!(
        arguments(&["a/b=heartbeat", "a-b=heartbeat"]),
        Err(vec![
            "--check a-b: socket /run/healthz/a-b.sock: the check a/b uses it already".into()
        ])
    );
    let checks = [OsString::from("x=clock")];
    let mistakes = parse(&checks, Some((Path::new(PATH), b"[check.x]\nclock = true"))).unwrap_err();
    assert_eq!(
        texts(mistakes),
        [format!("{PATH}:1:8: x: another check has this name")]
    );
}

/// Regression: the check was left out without a mistake.
#[test]
fn a_name_that_is_too_long_for_the_default_socket_is_refused() {
    let name = "n".repeat(100);
    let long = arguments(&[&format!("{name}=heartbeat")]).unwrap_err();
    assert_eq!(long.len(), 1);
    assert!(long[0].contains("socket /run/healthz/nnn"), "{long:?}");
    assert!(arguments(&[&format!("{name}=heartbeat,socket=/run/s")]).is_ok());
    assert!(arguments(&[&format!("{name}=clock")]).is_ok());
}

#[test]
fn number_size_and_depth_are_bounded() {
    let checks: Vec<String> = (0..=SPECS_MAX).map(|at| format!("x{at}=clock")).collect();
    let mut checks: Vec<&str> = checks.iter().map(String::as_str).collect();
    assert_eq!(
        arguments(&checks),
        Err(vec![format!(
            "--check x{SPECS_MAX}=clock: more than {SPECS_MAX} checks"
        )])
    );
    checks.pop();
    assert_eq!(arguments(&checks).unwrap().len(), SPECS_MAX);

    let large = "#".repeat(FILE_BYTES_MAX);
    assert_eq!(file(&large), Ok(vec![]));
    assert_eq!(
        file(&(large + "#")),
        Err(vec![format!("{PATH}: larger than 256 KiB")])
    );

    let mistakes = file(&"x=1\ny=1\n".repeat(1000)).unwrap_err();
    assert_eq!(mistakes.len(), MISTAKES_MAX + 1);
    // 1,998 keys that are there already.
    assert_eq!(mistakes[MISTAKES_MAX], "1898 more mistakes");

    for deep in [
        "[".repeat(100_000),
        "a.".repeat(100_000),
        "a=".to_owned() + &"[".repeat(100_000),
        "a=".to_owned() + &"{a=".repeat(50_000),
    ] {
        assert!(file(&deep).is_err());
    }
}

#[test]
fn text_that_is_not_utf8_is_refused_with_its_place() {
    let mistakes = parse(&[], Some((Path::new(PATH), b"[check.x]\nfile = '/\xff'"))).unwrap_err();
    assert_eq!(texts(mistakes), [format!("{PATH}:2:10: expected UTF-8")]);
    use std::os::unix::ffi::OsStringExt;
    let check = OsString::from_vec(b"x=file:/\xff".to_vec());
    let mistakes = parse(&[check], None).unwrap_err();
    assert_eq!(
        texts(mistakes),
        ["--check \"x=file:/\u{fffd}\": expected UTF-8"]
    );
}

#[test]
fn a_fifo_a_directory_and_a_missing_file_are_refused_at_once() {
    let directory = std::env::temp_dir().join(format!("healthz-config-{}", std::process::id()));
    std::fs::create_dir(&directory).unwrap();
    let fifo = directory.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let refused = |path: &Path| read_file(Some(path)).unwrap_err().to_string();
    assert_eq!(
        refused(&fifo),
        format!("{}: not a regular file", fifo.display())
    );
    assert_eq!(
        refused(&directory),
        format!("{}: not a regular file", directory.display())
    );
    let missing = directory.join("a\u{1b}b");
    let want = format!(
        "\"{}/a\\u{{1b}}b\": No such file or directory (os error 2)",
        directory.display()
    );
    assert_eq!(refused(&missing), want);
    let path = directory.join("file");
    std::fs::write(&path, "x").unwrap();
    assert_eq!(
        read_file(Some(&path)),
        Ok(Some((path.clone(), b"x".to_vec())))
    );
    std::fs::write(&path, vec![b'#'; FILE_BYTES_MAX]).unwrap();
    assert!(read_file(Some(&path)).is_ok());
    std::fs::write(&path, vec![b'#'; FILE_BYTES_MAX + 1]).unwrap();
    assert_eq!(
        refused(&path),
        format!("{}: larger than 256 KiB", path.display())
    );
    std::fs::remove_dir_all(&directory).unwrap();
}
