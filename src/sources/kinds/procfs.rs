//! Parsers of the text in /proc, /sys, pid files and the user database.
//!
//! Pure functions over bytes: no files, no allocation except for a path with escapes. What a parser does not
//! understand is `None`, never a panic. Called by the kinds; fuzzed by [`super::fuzz`].

use std::borrow::Cow;

/// The highest process number of any kernel, `PID_MAX_LIMIT`.
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

/// Descriptors in use and their limit, from /proc/sys/fs/file-nr.
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

/// Process numbers, from /proc/self/task/TID/children. Stops at what is not a number.
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
    let mut fields = fields(line);
    number(fields.next()?)?;
    let point = fields.nth(3)?;
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
