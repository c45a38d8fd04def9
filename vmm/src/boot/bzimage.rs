//! bzImage: the compressed kernel with its setup header (Linux Documentation/arch/x86/boot.rst).
//!
//! The kernel decompresses itself, so every compression works. Only the 64-bit entry is used; real-mode
//! code is not run.

use arch::layout;
use devices::memory::GuestMemory;
use linux_loader::loader::bootparam::setup_header;
use linux_loader::loader::{BzImage, KernelLoader};
use vm_memory::{ByteValued, GuestAddress};

use super::{BootError, BootProtocol, Entry, Fields, Kernel, Source, low_memory_end};

/// Where the setup header lies in the file.
const HEADER: usize = 0x1f1;
/// First protocol version with `xloadflags` (Linux 3.8).
const VERSION_2_12: u16 = 0x020c;
/// `xloadflags`: the kernel has a 64-bit entry at offset 0x200.
const XLF_KERNEL_64: u16 = 1;
/// Distance from the load address to the 64-bit entry.
const ENTRY_64: u64 = 0x200;
/// Sector of the setup code, in bytes.
const SECTOR: u64 = 512;
/// Paragraph in which `syssize` counts, in bytes.
const PARAGRAPH: u64 = 16;

pub(super) fn load(
    source: &mut Source,
    choice: BootProtocol,
    memory: &GuestMemory,
) -> Result<Kernel, BootError> {
    if choice == BootProtocol::Pvh {
        return Err(source.no_entry("PVH", "linux64, or pass the ELF vmlinux"));
    }
    let header = read_header(source)?;
    let end = end_in_memory(&header);
    if end > low_memory_end(memory) {
        return Err(source.too_large(end, memory));
    }
    source.check_reach(end)?;
    let start = GuestAddress(layout::HIMEM);
    let loaded = BzImage::load(memory, Some(start), &mut source.file, None)
        .map_err(|error| source.damaged(format!("{error}")))?;
    let address = loaded.kernel_load.0 + ENTRY_64;
    let initrd_limit = u64::from(header.initrd_addr_max).saturating_add(1);
    Ok(Kernel { entry: Entry::Linux64 { address, header: Some(header) }, end, initrd_limit })
}

/// Reads and checks the setup header; what lies beyond its declared length is zero.
fn read_header(source: &Source) -> Result<setup_header, BootError> {
    let mut file = [0; HEADER + size_of::<setup_header>()];
    if !source.read_at(0, &mut file)? {
        return Err(source.damaged("it ends inside its setup header"));
    }
    // Byte 0x201 is the offset of a short jump over the header, hence its length.
    let declared = 0x202 + usize::from(Fields(&file).u8(0x201));
    if let Some(beyond) = file.get_mut(declared..) {
        beyond.fill(0);
    }
    let mut header = setup_header::default();
    if let Some(bytes) = file.get(HEADER..) {
        header.as_mut_slice().copy_from_slice(bytes);
    }
    if header.version < VERSION_2_12 || header.xloadflags & XLF_KERNEL_64 == 0 {
        return Err(BootError::WrongFile {
            role: source.role,
            path: source.path.clone(),
            found: "a 32-bit or very old kernel without a 64-bit entry".to_owned(),
            remedy: "build it for x86_64, Linux 3.8 or later",
        });
    }
    let setup =
        SECTOR * (1 + u64::from(if header.setup_sects == 0 { 4 } else { header.setup_sects }));
    let wanted = setup + PARAGRAPH * u64::from(header.syssize);
    if source.len < wanted {
        return Err(source.damaged(format!(
            "it has {} bytes of {wanted}, so it was cut short; copy it again",
            source.len
        )));
    }
    Ok(header)
}

/// The kernel decompresses itself at its preferred address or where it was loaded, whichever is higher,
/// and needs `init_size` bytes there.
fn end_in_memory(header: &setup_header) -> u64 {
    let preferred = header.pref_address;
    preferred.max(layout::HIMEM).saturating_add(u64::from(header.init_size))
}
