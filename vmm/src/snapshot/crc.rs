//! CRC-32 (ISO 3309, as in gzip): tells whether bytes are those that were written.

/// The remainder of each byte.
const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut index = 0_u8;
    loop {
        let mut rest = index as u32;
        let mut bit = 0;
        while bit < 8 {
            rest = rest >> 1 ^ if rest & 1 == 1 { 0xedb8_8320 } else { 0 };
            bit += 1;
        }
        #[expect(clippy::indexing_slicing, reason = "as many as there are bytes")]
        {
            table[index as usize] = rest;
        }
        if index == u8::MAX {
            break table;
        }
        index += 1;
    }
};

/// The checksum of `parts`, one after the other.
pub(super) fn crc32(parts: &[&[u8]]) -> u32 {
    let next = |rest: u32, byte: &u8| {
        let index = usize::from(byte ^ rest.to_le_bytes()[0]);
        rest >> 8 ^ TABLE.get(index).copied().unwrap_or(0)
    };
    !parts.iter().copied().flatten().fold(!0, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_one_that_everybody_uses() {
        assert_eq!(crc32(&[b"123456789"]), 0xcbf4_3926);
        assert_eq!(crc32(&[b"1234", b"", b"56789"]), 0xcbf4_3926);
        assert_eq!(crc32(&[]), 0);
    }
}
