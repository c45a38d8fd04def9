//! A corpus as one file: each input behind its length, 16 bits little-endian. Thousands of files of a few bytes each
//! would be a burden to everybody who looks at the tree.

/// The longest input that an archive can hold.
pub const INPUT_MAX: usize = u16::MAX as usize;

/// The inputs of an archive.
///
/// # Errors
/// What is wrong with it, in words.
pub fn unpack(mut archive: &[u8]) -> Result<Vec<&[u8]>, String> {
    let mut inputs = Vec::new();
    while !archive.is_empty() {
        let Some((len, rest)) = archive.split_first_chunk() else {
            return Err("it ends within a length".to_owned());
        };
        let len = usize::from(u16::from_le_bytes(*len));
        let Some((input, rest)) = rest.split_at_checked(len) else {
            return Err(format!("an input of {len} bytes is cut off"));
        };
        inputs.push(input);
        archive = rest;
    }
    Ok(inputs)
}

/// An archive of `inputs`, the shortest first, of at most `limit` bytes. What is longer than [`INPUT_MAX`] or does not
/// fit is left out.
#[must_use]
pub fn pack(mut inputs: Vec<Vec<u8>>, limit: usize) -> Vec<u8> {
    inputs.sort_by(|a, b| a.len().cmp(&b.len()).then_with(|| a.cmp(b)));
    inputs.dedup();
    let mut archive = Vec::new();
    for input in inputs {
        let Ok(len) = u16::try_from(input.len()) else { break };
        if archive.len() + 2 + input.len() > limit {
            break;
        }
        archive.extend(len.to_le_bytes());
        archive.extend(input);
    }
    archive
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_comes_back_sorted_and_once() {
        let inputs = [&b"long one"[..], b"", b"b", b"a", b"b"].map(<[u8]>::to_vec).to_vec();
        let archive = pack(inputs, 1000);
        assert_eq!(unpack(&archive).unwrap(), [&b""[..], b"a", b"b", b"long one"]);
    }

    #[test]
    fn what_does_not_fit_is_left_out() {
        let inputs = vec![vec![1; 10], vec![2; 20], vec![3; INPUT_MAX + 1]];
        assert_eq!(unpack(&pack(inputs.clone(), 12)).unwrap(), [[1; 10]]);
        assert_eq!(unpack(&pack(inputs, 1 << 20)).unwrap().len(), 2);
    }

    #[test]
    fn a_damaged_archive_is_refused() {
        for archive in [&b"\x01"[..], b"\x02\x00a", b"\x00\x00\x05\x00abcd"] {
            assert!(unpack(archive).is_err(), "{archive:?}");
        }
    }
}
