//! What a static program leaves out of the C library.
//!
//! Linked statically, the library brings translations, character sets, locales, formatted output, name servers and a
//! loader of shared libraries, a third of a megabyte, for what it might have to say itself: that one of its assertions
//! failed, that a name of an error is to be translated, what its allocator did. No Rust program gets there in any other
//! way. These are doors to all that, each with the answer that there is nothing behind it. They are weak: where the
//! library needs the real one after all, that one is linked.

use std::arch::global_asm;
use std::ffi::CStr;

/// `.weak NAME` with the code that it consists of, before it returns.
macro_rules! nothing_behind {
    ($($name:literal: $answer:literal;)*) => {
        global_asm!($(
            concat!(".weak ", $name), concat!(".type ", $name, ", @function"), concat!($name, ":"), $answer, "ret",
        )*);
    };
}

nothing_behind! {
    // A message is its own translation: the second argument.
    "__dcgettext": "mov rax, rsi";
    // In a static program there is no symbol to be found.
    "dlsym": "xor eax, eax";
    // Nothing is printed by the C library: an error of output.
    "__vfprintf_internal": "mov eax, -1";
    // No name servers.
    "__res_vinit": "mov eax, -1";
    "__res_iclose": "";
    "__res_thread_freeres": "";
    // No character sets but ASCII and UTF-8: no such conversion (1), an illegal character (6).
    "__gconv_load_conf": "";
    "__gconv_lookup_cache": "mov eax, 1";
    "__gconv_compare_alias_cache": "mov eax, 1";
    "__gconv_release_cache": "";
    "__gconv_find_shlib": "xor eax, eax";
    "__gconv_release_shlib": "";
    "__gconv_transliterate": "mov eax, 6";
    // No locale but C.
    "_nl_find_locale": "xor eax, eax";
    "_nl_finddomain_subfreeres": "";
    // Stacks are never executable.
    "__nptl_change_stack_perm": "xor eax, eax";
}

// The end, in our words.
global_asm!(".weak __assert_fail", "__assert_fail: jmp {}", sym assertion_failed);

/// An assertion of the C library failed (`assert(3)`): its memory is corrupt.
extern "C" fn assertion_failed(
    assertion: *const libc::c_char,
    file: *const libc::c_char,
    line: libc::c_uint,
) -> ! {
    let text = |text: *const libc::c_char| {
        // SAFETY: the library's assertions name themselves by terminated strings.
        unsafe { CStr::from_ptr(text) }.to_string_lossy()
    };
    eprintln!("vmm: the C library failed: {}, line {line}: {}", text(file), text(assertion));
    std::process::abort()
}
