use super::{Block, Code, Id};

/// A block around `content` bytes: its opcode, its length, and that it still holds them.
fn block(content: usize) -> Vec<u8> {
    let mut code = Code::with_capacity(0);
    let open = code.open(Block::Scope);
    code.raw(&vec![0xaa; content]);
    code.close(open);
    code.into_bytes()
}

#[test]
fn lengths_take_as_few_bytes_as_they_can() {
    let cases: [(usize, &[u8]); 6] = [
        (0, &[1]),
        (62, &[63]),
        (63, &[0x41, 4]),
        (4093, &[0x4f, 0xff]),
        (4094, &[0x81, 0x00, 0x01]),
        (100_000, &[0x83, 0x6a, 0x18]),
    ];
    for (content, length) in cases {
        let code = block(content);
        assert_eq!(code[0], 0x10);
        assert_eq!(&code[1..=length.len()], length, "{content} bytes");
        assert_eq!(code[1 + length.len()..], vec![0xaa; content]);
    }
}

#[test]
fn a_block_that_grows_moves_the_blocks_inside() {
    let mut code = Code::with_capacity(0);
    let outer = code.open(Block::Device);
    let inner = code.open(Block::If);
    code.raw(&[0xaa; 61]);
    code.close(inner);
    code.close(outer);
    let code = code.into_bytes();
    assert_eq!(code[..6], [0x5b, 0x82, 0x41, 4, 0xa0, 62]);
    assert_eq!(code.len(), 6 + 61);
}

#[test]
fn numbers_have_short_forms() {
    let integer = |value| {
        let mut code = Code::with_capacity(0);
        code.integer(value);
        code.into_bytes()
    };
    assert_eq!(integer(0), [0]);
    assert_eq!(integer(1), [1]);
    assert_eq!(integer(2), [0x0a, 2]);
    assert_eq!(integer(255), [0x0a, 255]);
    assert_eq!(integer(256), [0x0c, 0, 1, 0, 0]);
    assert_eq!(integer(u32::MAX), [0x0c, 255, 255, 255, 255]);
}

#[test]
fn identifiers_are_compressed_or_spelled_out() {
    let id = |id| {
        let mut code = Code::with_capacity(0);
        code.id(id);
        code.into_bytes()
    };
    assert_eq!(id(Id::Pnp(0x0501)), b"\x08_HID\x0c\x41\xd0\x05\x01");
    assert_eq!(id(Id::Text("ACPI0013")), b"\x08_HID\x0dACPI0013\0");
}
