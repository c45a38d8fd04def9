//! A guest that runs: its bytes with the time they came, and its end.

use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use crate::interrupt;

/// How long a guest may keep silent. It is no measure: only a contender that failed waits that long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A process with a guest in it. Killed and reaped on drop.
pub struct Guest {
    child: Child,
    output: ChildStdout,
    input: ChildStdin,
    started: Instant,
}

impl Guest {
    /// Starts a command whose standard input and output are the guest's serial line.
    pub fn run(command: &mut std::process::Command) -> Result<Self, String> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = Instant::now();
        let spawned = interrupt::spawn(command);
        let mut child = spawned.map_err(|e| format!("{:?}: {e}", command.get_program()))?;
        match (child.stdout.take(), child.stdin.take()) {
            (Some(output), Some(input)) => Ok(Self { child, output, input, started }),
            _ => unreachable!("both are pipes"),
        }
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// When the process was started: just before it was.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Waits for the next byte, which must be `wanted`, and tells when it came.
    pub fn expect(&mut self, wanted: u8) -> Result<Instant, String> {
        let (byte, when) = self.next_byte()?;
        if byte == wanted {
            return Ok(when);
        }
        let mut said = vec![byte];
        while let Ok((byte, _)) = self.next_byte()
            && byte != b'\n'
        {
            said.push(byte);
        }
        Err(format!("the guest said {:?}", String::from_utf8_lossy(&said)))
    }

    /// The rest of the line.
    pub fn line(&mut self) -> Result<String, String> {
        let mut line = Vec::new();
        loop {
            match self.next_byte()? {
                (b'\n', _) => return Ok(String::from_utf8_lossy(&line).into_owned()),
                (byte, _) => line.push(byte),
            }
        }
    }

    /// Lets a guest that is ready go.
    pub fn go(&mut self) -> Result<(), String> {
        self.send("g")
    }

    /// Types `text`.
    pub fn send(&mut self, text: &str) -> Result<(), String> {
        self.input.write_all(text.as_bytes()).map_err(|e| format!("the guest takes no input: {e}"))
    }

    /// Kills the children of the process, and waits for its end that follows.
    pub fn end_children(mut self) -> Result<(), String> {
        let pid = self.pid();
        let path = format!("/proc/{pid}/task/{pid}/children");
        let children = std::fs::read_to_string(&path).map_err(|e| format!("{path}: {e}"))?;
        for child in children.split_whitespace().filter_map(|pid| pid.parse::<libc::pid_t>().ok()) {
            // SAFETY: takes numbers. The process is not reaped while its parent, which is ours, waits for it.
            unsafe { libc::kill(child, libc::SIGKILL) };
        }
        self.child.wait().map(drop).map_err(|e| e.to_string())
    }

    fn next_byte(&mut self) -> Result<(u8, Instant), String> {
        let mut ready =
            libc::pollfd { fd: self.output.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        let timeout = libc::c_int::try_from(PATIENCE.as_millis()).unwrap_or(libc::c_int::MAX);
        // SAFETY: one pollfd that lives through the call.
        let result = unsafe { libc::poll(&raw mut ready, 1, timeout) };
        if result == 0 {
            return Err(format!("silent for {PATIENCE:?}"));
        }
        let mut byte = [0];
        match self.output.read(&mut byte) {
            Ok(1) => Ok((byte[0], Instant::now())),
            Ok(_) => Err(self.last_words()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Why a process ended: the last line of its standard error.
    fn last_words(&mut self) -> String {
        self.end();
        let mut text = String::new();
        if let Some(mut errors) = self.child.stderr.take() {
            // What cannot be read cannot be shown.
            let _ = errors.read_to_string(&mut text);
        }
        let last = text.lines().rev().find(|line| !line.trim().is_empty());
        last.map_or_else(|| "ended without a word".to_owned(), |line| line.trim().to_owned())
    }

    fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Guest {
        Guest::run(std::process::Command::new("sh").args(["-c", script])).unwrap()
    }

    #[test]
    fn bytes_come_in_order_and_after_the_start() {
        let mut guest = shell("printf 'SE 5 0\\n'; cat");
        let first = guest.expect(b'S').unwrap();
        assert!(first > guest.started());
        guest.expect(b'E').unwrap();
        assert_eq!(guest.line().unwrap(), " 5 0");
        guest.go().unwrap();
        guest.expect(b'g').unwrap();
    }

    #[test]
    fn a_process_ends_after_its_children() {
        let mut guest = shell("trap 'exit 0' CHLD; sleep 60 & printf S; wait");
        guest.expect(b'S').unwrap();
        guest.end_children().unwrap();
    }

    #[test]
    fn what_goes_wrong_is_told() {
        let complaint = shell("printf '! no such device\\n'").expect(b'S');
        assert_eq!(complaint.unwrap_err(), r#"the guest said "! no such device""#);
        let failure = shell("echo first >&2; echo cannot open x >&2").expect(b'S');
        assert_eq!(failure.unwrap_err(), "cannot open x");
        assert_eq!(shell("exit 1").expect(b'S').unwrap_err(), "ended without a word");
        let missing = Guest::run(&mut std::process::Command::new("/nowhere/x"));
        assert!(missing.err().unwrap().starts_with("\"/nowhere/x\": No such file"));
    }
}
