//! Gives back memory that is no longer needed.
//!
//! After the start, a process has three kinds of pages that it does not need: pages of the program's file that only the
//! start used, free pages of the heap, and pages of the stack that only deeper calls have used. This gives them back to
//! the kernel. If a page of the file is used later, the kernel maps it again, usually without reading the file. The
//! daemon calls it when it begins to serve, and the supervisor before it waits for a worker. The worker has attempted
//! checks or read the check file, and calls it before it waits for long.
//!
//! Besides the `sys` modules, the only file of the program that may contain `unsafe`.
#![allow(unsafe_code)]

/// Gives back what is not in use at present. A few dozen microseconds. Memory that `--lock-memory` has locked stays.
#[cold]
pub fn give_back() {
    trim_heap();
    #[cfg(target_os = "linux")]
    {
        unmap_program();
        unmap_stack();
    }
}

/// From now on, all threads allocate from one heap. Otherwise glibc gives each thread a heap of its own.
#[cfg(target_os = "linux")]
pub fn share_heap() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the call takes numbers only.
    let _ = unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Gives back free pages of the heap, for example those of the previous checks after the check file was read again.
pub fn trim_heap() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: the call takes a number only, and gives back only memory that is free.
    let _ = unsafe { libc::malloc_trim(0) };
}

/// Unmaps the part of the main thread's stack that no function uses now.
#[cfg(target_os = "linux")]
#[inline(never)]
fn unmap_stack() {
    /// How far below this frame pages are given back. The start uses less.
    const DEPTH_BYTES: usize = 64 * 1024;
    // SAFETY: both calls take and return numbers only.
    if unsafe { libc::gettid() != libc::getpid() } {
        return; // Other stacks can be smaller, with other memory below them.
    }
    let local = std::hint::black_box(0_u8);
    let page = (&raw const local as usize) & !(PAGE_BYTES as usize - 1);
    // This function and those that it calls may use their own page and the next one.
    let end = page - PAGE_BYTES as usize;
    // SAFETY: all frames are above `end`, and nothing reads below its frame what was written before. The kernel keeps
    // other mappings at least a megabyte away from the stack of the main thread.
    let _ = unsafe {
        libc::madvise(
            (end - DEPTH_BYTES) as *mut _,
            DEPTH_BYTES,
            libc::MADV_DONTNEED,
        )
    };
}

#[cfg(target_os = "linux")]
const PAGE_BYTES: u64 = 4096;

#[cfg(target_os = "linux")]
fn unmap_program() {
    // SAFETY: the function has the type that the call expects, and does not keep its arguments.
    let _ = unsafe { libc::dl_iterate_phdr(Some(unmap), std::ptr::null_mut()) };
}

/// Unmaps the pages of one file of the program: of itself, or of a library.
#[cfg(target_os = "linux")]
extern "C" fn unmap(
    info: *mut libc::dl_phdr_info,
    _size: libc::size_t,
    _data: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: dl_iterate_phdr passes a valid structure.
    let Some(info) = (unsafe { info.as_ref() }) else {
        return 0;
    };
    for index in 0..usize::from(info.dlpi_phnum) {
        // SAFETY: the array has `dlpi_phnum` elements.
        let header = unsafe { &*info.dlpi_phdr.add(index) };
        if header.p_type != libc::PT_LOAD || header.p_flags & libc::PF_W != 0 {
            continue;
        }
        #[allow(
            clippy::useless_conversion,
            reason = "they have 32 bits on some machines"
        )]
        let (begin, length) = (
            u64::from(info.dlpi_addr) + u64::from(header.p_vaddr),
            u64::from(header.p_memsz),
        );
        // Only whole pages of this size. With a larger page size the call fails if `first` is not the start of a page.
        // Otherwise it gives back the whole last page, too: that is in the same segment.
        let first = begin.next_multiple_of(PAGE_BYTES);
        let end = (begin + length) & !(PAGE_BYTES - 1);
        let bytes = end.saturating_sub(first) as libc::size_t;
        // SAFETY: nothing writes to these pages, because their segment is not writable. So they have the contents of
        // the file, and the kernel maps them again when they are used next.
        let _ = unsafe { libc::madvise(first as *mut _, bytes, libc::MADV_DONTNEED) };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Unmapped pages are mapped again: the code and the constants of this test are among them.
    #[test]
    fn the_program_continues_to_run() {
        let text: Vec<u8> = (0..=u8::MAX).cycle().take(100_000).collect();
        give_back();
        assert_eq!(
            text.iter().map(|byte| u64::from(*byte)).sum::<u64>(),
            12_742_320
        );
        let other = std::thread::spawn(|| format!("{:?}", std::time::Duration::from_millis(1500)));
        assert_eq!(other.join().unwrap(), "1.5s");
    }
}
