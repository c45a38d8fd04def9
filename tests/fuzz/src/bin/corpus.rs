//! `corpus unpack FILE DIRECTORY` and `corpus pack DIRECTORY FILE`: between a corpus that is kept and one that libFuzzer
//! works on.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use fuzz::archive;

/// Bytes of one corpus that is kept. Few need as much: all of them together are less than 1 MiB, which the replay checks.
const LIMIT: usize = 160 << 10;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = match words[..] {
        ["unpack", file, directory] => unpack(Path::new(file), Path::new(directory)),
        ["pack", directory, file] => pack(Path::new(directory), Path::new(file)),
        _ => Err("usage: corpus unpack FILE DIRECTORY | corpus pack DIRECTORY FILE".into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("corpus: {error}");
            ExitCode::FAILURE
        }
    }
}

fn unpack(file: &Path, directory: &Path) -> Result<(), Box<dyn Error>> {
    let packed = fs::read(file)?;
    for (number, input) in archive::unpack(&packed)?.into_iter().enumerate() {
        fs::write(directory.join(format!("kept-{number:04}")), input)?;
    }
    Ok(())
}

fn pack(directory: &Path, file: &Path) -> Result<(), Box<dyn Error>> {
    let mut inputs = Vec::new();
    for entry in fs::read_dir(directory)? {
        inputs.push(fs::read(entry?.path())?);
    }
    fs::write(file, archive::pack(inputs, LIMIT))?;
    Ok(())
}
