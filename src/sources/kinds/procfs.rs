//! Parsers of the text in /proc, /sys, pid files and the user database.
//!
//! Pure functions over bytes: no files, no allocation except for a path with escapes. What a parser does not
//! understand is `None`, never a panic. Called by the kinds; fuzzed by [`super::fuzz`].

use std::borrow::Cow;

/// The highest process ID of any kernel, `PID_MAX_LIMIT`.
pub const PID_MAX: i32 = 4_194_304;

/// A decimal number with nothing but white space around it.
pub fn number(text: &[u8]) -> Option<u64> {
    let digits = text.trim_ascii();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

/// As [`number`], with a minus sign allowed.
pub fn signed(text: &[u8]) -> Option<i64> {
    let text = text.trim_ascii();
    match text.strip_prefix(b"-") {
        Some(digits) if digits.first().is_some_and(u8::is_ascii_digit) => {
            0i64.checked_sub_unsigned(number(digits)?)
        }
        Some(_) => None,
        None => i64::try_from(number(text)?).ok(),
    }
}

/// A number of a process, from 1 to [`PID_MAX`].
pub fn pid(text: &[u8]) -> Option<i32> {
    let pid = i32::try_from(number(text)?).ok()?;
    (1..=PID_MAX).contains(&pid).then_some(pid)
}

/// The process in a pid file: the first line. Some programs write more lines (PostgreSQL).
pub fn pid_file(text: &[u8]) -> Option<i32> {
    pid(lines(text).next()?)
}

/// A limit of a control group: `max` is `None`.
pub fn limit(text: &[u8]) -> Option<Option<u64>> {
    match text.trim_ascii() {
        b"max" => Some(None),
        digits => number(digits).map(Some),
    }
}

/// `MemTotal` and `MemAvailable` of /proc/meminfo, in bytes. The second is missing before Linux 3.14.
pub fn meminfo(text: &[u8]) -> Option<(u64, u64)> {
    let field = |name: &[u8]| {
        let value = lines(text).find_map(|line| line.strip_prefix(name)?.strip_prefix(b":"))?;
        let kib = value.trim_ascii().strip_suffix(b"kB")?;
        number(kib)?.checked_mul(1024)
    };
    Some((field(b"MemTotal")?, field(b"MemAvailable")?))
}

/// The value of `name` in a file of lines such as `inactive_file 4096` (memory.stat).
pub fn named(text: &[u8], name: &[u8]) -> Option<u64> {
    lines(text).find_map(|line| number(line.strip_prefix(name)?.strip_prefix(b" ")?))
}

/// The path of the process in the unified hierarchy, from /proc/PID/cgroup. Begins with a slash.
pub fn cgroup(text: &[u8]) -> Option<&[u8]> {
    lines(text)
        .find_map(|line| line.strip_prefix(b"0::"))
        .filter(|path| path.starts_with(b"/"))
}

/// The field before the last of /proc/loadavg, `2/345`: the threads of the machine.
pub fn thread_count(text: &[u8]) -> Option<u64> {
    let field = text.split(|byte| *byte == b' ').nth(3)?;
    let (_, count) = split_once(field, b'/')?;
    number(count)
}

/// Open files of the machine and their limit, from /proc/sys/fs/file-nr. Descriptors that were duplicated share one.
pub fn file_nr(text: &[u8]) -> Option<(u64, u64)> {
    let mut fields = fields(text);
    let (allocated, free) = (number(fields.next()?)?, number(fields.next()?)?);
    Some((allocated.checked_sub(free)?, number(fields.next()?)?))
}

/// The soft limit of open files, from /proc/PID/limits; `None` inside is `unlimited`.
pub fn open_files_limit(text: &[u8]) -> Option<Option<u64>> {
    let value = lines(text).find_map(|line| line.strip_prefix(b"Max open files "))?;
    match fields(value).next()? {
        b"unlimited" => Some(None),
        digits => number(digits).map(Some),
    }
}

/// What /proc/PID/stat says about a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat<'a> {
    pub pid: i32,
    /// The name, at most 15 bytes of any kind.
    pub comm: &'a [u8],
    pub state: u8,
    pub parent: i32,
    pub group: i32,
    flags: u64,
    pub threads: u64,
    /// In ticks of 1/100 s since the machine started.
    pub start: u64,
}

/// `PF_KTHREAD` of the kernel.
const KERNEL_THREAD: u64 = 0x0020_0000;

impl Stat<'_> {
    /// True for a process that has ended. A zombie with other threads has only ended its first one.
    pub fn is_dead(&self) -> bool {
        match self.state {
            b'Z' => self.threads <= 1,
            b'X' | b'x' => true,
            _ => false,
        }
    }

    pub fn is_kernel_thread(&self) -> bool {
        self.flags & KERNEL_THREAD != 0
    }
}

/// Parses /proc/PID/stat. The name can contain spaces and parentheses, so it ends at the last one.
pub fn stat(text: &[u8]) -> Option<Stat<'_>> {
    let open = text.iter().position(|byte| *byte == b'(')?;
    let close = text.iter().rposition(|byte| *byte == b')')?;
    let comm = text.get(open + 1..close)?;
    // From field 3 on: see proc_pid_stat(5).
    let mut fields = fields(text.get(close + 1..)?);
    let [state] = *fields.next()? else {
        return None;
    };
    // A group outside of this pid namespace is 0, and the parent of the first process too.
    let id = |text: &[u8]| i32::try_from(number(text)?).ok();
    Some(Stat {
        pid: pid(text.get(..open)?)?,
        comm,
        state,
        parent: id(fields.next()?)?,
        group: id(fields.next()?)?,
        flags: number(fields.nth(3)?)?,
        threads: number(fields.nth(10)?)?,
        start: number(fields.nth(1)?)?,
    })
}

/// Process IDs, from /proc/self/task/TID/children. Stops at what is not a number.
pub fn children(text: &[u8]) -> impl Iterator<Item = i32> + '_ {
    fields(text).map_while(pid)
}

/// A line of /proc/PID/mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountLine<'a> {
    /// Without escapes.
    pub point: Cow<'a, [u8]>,
    /// True if the mount and its file system are writable.
    pub is_writable: bool,
}

/// Parses a line of /proc/PID/mountinfo:
/// `36 35 98:0 /root /point rw,noatime master:1 - ext3 /dev/sda rw,errors=continue`.
pub fn mount(line: &[u8]) -> Option<MountLine<'_>> {
    // The kernel escapes spaces, but not all white space.
    let mut fields = line.split(|byte| *byte == b' ');
    number(fields.next()?)?;
    let point = fields.nth(3).filter(|point| point.starts_with(b"/"))?;
    let options = fields.next()?;
    // Optional fields end with a dash; the type and the source of the file system follow.
    fields.find(|field| *field == b"-")?;
    let super_options = fields.nth(2)?;
    Some(MountLine {
        point: unescape(point),
        is_writable: is_writable(options)? && is_writable(super_options)?,
    })
}

/// `rw` or `ro` is the first option always.
fn is_writable(options: &[u8]) -> Option<bool> {
    match options.split(|byte| *byte == b',').next()? {
        b"rw" => Some(true),
        b"ro" => Some(false),
        _ => None,
    }
}

/// Replaces escapes of three octal digits: `\040` is a space.
fn unescape(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'\\') {
        return Cow::Borrowed(text);
    }
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        match octal(rest) {
            Some(byte) => {
                plain.push(byte);
                rest = rest.get(4..).unwrap_or_default();
            }
            None => {
                plain.push(*first);
                rest = tail;
            }
        }
    }
    Cow::Owned(plain)
}

fn octal(text: &[u8]) -> Option<u8> {
    let [b'\\', digits @ ..] = text.get(..4)? else {
        return None;
    };
    digits.iter().try_fold(0u8, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(digit - b'0'),
        _ => None,
    })
}

/// A user of /etc/passwd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User<'a> {
    pub name: &'a [u8],
    pub uid: u32,
    pub gid: u32,
}

/// Parses a line of /etc/passwd: `name:x:uid:gid:comment:home:shell`.
pub fn user(line: &[u8]) -> Option<User<'_>> {
    let mut fields = line.split(|byte| *byte == b':');
    let name = fields.next().filter(|name| !name.is_empty())?;
    Some(User {
        name,
        uid: id(fields.nth(1)?)?,
        gid: id(fields.next()?)?,
    })
}

/// The number of a group, from a line of /etc/group (`name:x:gid:user,user`), if `user` is one of its members.
pub fn group_with(line: &[u8], user: &[u8]) -> Option<u32> {
    let mut fields = line.split(|byte| *byte == b':');
    fields.next().filter(|name| !name.is_empty())?;
    let gid = id(fields.nth(1)?)?;
    let is_member = fields
        .next()?
        .split(|byte| *byte == b',')
        .any(|name| name == user);
    is_member.then_some(gid)
}

/// A number of a user or group. The highest one means "no change" in system calls.
pub fn id(text: &[u8]) -> Option<u32> {
    let id = u32::try_from(number(text)?).ok()?;
    (id != u32::MAX).then_some(id)
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|byte| *byte == b'\n')
}

/// The words between white space.
fn fields(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(u8::is_ascii_whitespace)
        .filter(|field| !field.is_empty())
}

fn split_once(text: &[u8], at: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|byte| *byte == at)?;
    Some((text.get(..at)?, text.get(at + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMINFO: &[u8] = b"\
MemTotal:        4046180 kB
MemFree:          186728 kB
MemAvailable:    3011052 kB
Buffers:          143516 kB
HugePages_Total:       0
";
    const STAT: &[u8] = b"1234 (a) (b c) S 1 1230 1230 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 3 0 3702 \
        5799936 900 18446744073709551615 1 2 3 4 5 6 7 8 9 10 11 12 17 1 0 0 0 0 0 1 2 3 4 5 6 7 0\n";
    const LIMITS: &[u8] = b"\
Limit                     Soft Limit           Hard Limit           Units     
Max cpu time              unlimited            unlimited            seconds   
Max open files            1024                 524288               files     
Max locked memory         8388608              8388608              bytes     
";
    const MOUNT: &[u8] =
        b"36 35 98:0 / /a\\040b\\134c rw,noatime master:1 - ext3 /dev/root rw,errors=x";

    #[test]
    fn numbers_have_nothing_around_them_but_white_space() {
        assert_eq!(number(b"42"), Some(42));
        assert_eq!(number(b" 18446744073709551615\n"), Some(u64::MAX));
        for text in [
            "",
            " ",
            "-1",
            "+1",
            "1 2",
            "18446744073709551616",
            "0x1",
            "1\0",
        ] {
            assert_eq!(number(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(signed(b"-9223372036854775808\n"), Some(i64::MIN));
        assert_eq!(signed(b"9223372036854775807"), Some(i64::MAX));
        for text in [
            "--1",
            "-",
            "- 1",
            "-+1",
            "9223372036854775808",
            "-9223372036854775809",
        ] {
            assert_eq!(signed(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(pid(b"4194304"), Some(PID_MAX));
        assert_eq!((pid(b"0"), pid(b"4194305"), pid(b"-1")), (None, None, None));
        assert_eq!(id(b"4294967294"), Some(u32::MAX - 1));
        assert_eq!((id(b"4294967295"), id(b"")), (None, None));
    }

    #[test]
    fn a_pid_file_has_the_number_in_its_first_line() {
        assert_eq!(pid_file(b"17"), Some(17));
        assert_eq!(pid_file(b" 17 \r\n/var/lib/postgresql\n5432\n"), Some(17));
        for text in ["", "\n17", "17 18", "x17", "0"] {
            assert_eq!(pid_file(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn memory_is_read_from_real_and_broken_text() {
        assert_eq!(meminfo(MEMINFO), Some((4_046_180 << 10, 3_011_052 << 10)));
        let text = std::fs::read("/proc/meminfo").unwrap();
        let (total, available) = meminfo(&text).unwrap();
        assert!(available > 0 && available < total);
        for text in [
            "",
            "MemTotal: 1 kB",
            "MemTotal: 1 kB\nMemAvailable: 1",
            "MemTotal: 1 kB\nMemAvailable: 1 MB",
            "MemTotal: 1 kB\nMemAvailable: 18446744073709551615 kB",
        ] {
            assert_eq!(meminfo(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn control_groups_are_read_from_real_and_broken_text() {
        assert_eq!(limit(b"max\n"), Some(None));
        assert_eq!(limit(b"1048576\n"), Some(Some(1_048_576)));
        assert_eq!(
            (limit(b""), limit(b"maximum"), limit(b"-1")),
            (None, None, None)
        );
        let stat = b"anon 4096\nfile 8192\ninactive_file 12288\n";
        assert_eq!(named(stat, b"inactive_file"), Some(12_288));
        assert_eq!(named(stat, b"inactive"), None);
        assert_eq!(named(b"inactive_file", b"inactive_file"), None);
        let lines = b"4:memory:/old\n1:name=systemd:/x\n0::/user.slice/a b.scope\n";
        assert_eq!(cgroup(lines), Some(b"/user.slice/a b.scope".as_slice()));
        assert_eq!(cgroup(b"4:memory:/old\n"), None);
        assert_eq!(cgroup(b"0::"), None);
        assert_eq!(cgroup(b"0::relative"), None);
    }

    #[test]
    fn figures_of_the_machine_are_read() {
        assert_eq!(thread_count(b"0.61 0.61 0.55 3/828 22084\n"), Some(828));
        assert_eq!(
            (thread_count(b"0.61 0.61 0.55 828"), thread_count(b"")),
            (None, None)
        );
        let real = std::fs::read("/proc/loadavg").unwrap();
        assert!(thread_count(&real).unwrap() > 0);
        assert_eq!(
            file_nr(b"1632\t32\t9223372036854775807\n"),
            Some((1600, i64::MAX as u64))
        );
        assert_eq!((file_nr(b"1632\t0"), file_nr(b"1\t2\t3")), (None, None));
        let real = std::fs::read("/proc/sys/fs/file-nr").unwrap();
        assert!(file_nr(&real).unwrap().0 > 0);
        assert_eq!(open_files_limit(LIMITS), Some(Some(1024)));
        let text = b"Max open files   unlimited   unlimited  files";
        assert_eq!(open_files_limit(text), Some(None));
        assert_eq!(
            (open_files_limit(b"Max open files "), open_files_limit(b"")),
            (None, None)
        );
        let real = std::fs::read("/proc/self/limits").unwrap();
        assert!(
            open_files_limit(&real)
                .unwrap()
                .is_none_or(|limit| limit > 0)
        );
    }

    #[test]
    fn a_process_can_have_any_name() {
        let read = stat(STAT).unwrap();
        assert_eq!((read.pid, read.comm), (1234, b"a) (b c".as_slice()));
        assert_eq!((read.state, read.parent, read.group), (b'S', 1, 1230));
        assert_eq!((read.threads, read.start), (3, 3702));
        assert!(!read.is_dead() && !read.is_kernel_thread());
        let thread = b"2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 1 0 0";
        assert!(stat(thread).unwrap().is_kernel_thread());
        let real = std::fs::read("/proc/self/stat").unwrap();
        let real = stat(&real).unwrap();
        assert_eq!(u32::try_from(real.pid), Ok(std::process::id()));
        assert_eq!(real.parent, nix::unistd::getppid().as_raw());
    }

    #[test]
    fn a_zombie_with_other_threads_lives() {
        let state = |state: char, threads| {
            let text = format!("1 (x) {state} 0 0 0 0 -1 0 0 0 0 0 0 0 0 0 20 0 {threads} 0 1 0");
            stat(text.as_bytes()).unwrap().is_dead()
        };
        assert!(state('Z', 1) && state('Z', 0) && state('X', 1));
        assert!(!state('Z', 2) && !state('D', 1) && !state('T', 1));
    }

    #[test]
    fn escapes_in_mount_points_are_replaced() {
        let read = mount(MOUNT).unwrap();
        assert_eq!(*read.point, *b"/a b\\c");
        assert!(read.is_writable);
        let text = b"1 1 0:1 / /\\0402\\011\\400\\8\\04 ro - proc proc rw";
        let read = mount(text).unwrap();
        // An escape of more than a byte, and cut ones, are taken as they are.
        assert_eq!(*read.point, *b"/ 2\t\\400\\8\\04");
        assert!(!read.is_writable);
        for text in [
            "",
            "1 1 0:1 / /a rw",
            "1 1 0:1 / /a rw - ext4 /dev/a",
            "1 1 0:1 / /a xx - ext4 /dev/a rw",
            "x 1 0:1 / /a rw - ext4 /dev/a rw",
        ] {
            assert_eq!(mount(text.as_bytes()), None, "{text:?}");
        }
        let real = std::fs::read("/proc/self/mountinfo").unwrap();
        let count = lines(&real).filter(|line| !line.is_empty()).count();
        assert!(count > 0);
        assert_eq!(lines(&real).filter_map(mount).count(), count);
    }

    #[test]
    fn users_and_groups_are_read_from_real_and_broken_lines() {
        let read = user(b"ada:x:1000:100:Ada,,,:/home/ada:/bin/sh").unwrap();
        assert_eq!(
            (read.name, read.uid, read.gid),
            (b"ada".as_slice(), 1000, 100)
        );
        for text in ["", ":x:1:1", "ada:x:1", "ada:x:a:1", "+::::::"] {
            assert_eq!(user(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(group_with(b"audio:x:29:eve,ada", b"ada"), Some(29));
        assert_eq!(group_with(b"audio:x:29:eve,adam", b"ada"), None);
        assert_eq!(group_with(b"audio:x:29", b"ada"), None);
        let real = std::fs::read("/etc/passwd").unwrap();
        assert!(lines(&real).filter_map(user).any(|user| user.uid == 0));
    }

    #[test]
    fn children_end_at_what_is_no_number() {
        assert!(children(b"12 34 \n").eq([12, 34]));
        assert!(children(b"12 x 34").eq([12]));
        assert_eq!(children(b"").count(), 0);
    }

    #[test]
    fn text_that_is_cut_anywhere_does_not_panic() {
        for text in [
            MEMINFO,
            STAT,
            LIMITS,
            MOUNT,
            b"audio:x:29:eve,ada",
            b"1\t2\t3",
        ] {
            for end in 0..=text.len() {
                super::super::fuzz::procfs(&text[..end]);
                super::super::fuzz::procfs(&text[end..]);
            }
        }
    }
}
