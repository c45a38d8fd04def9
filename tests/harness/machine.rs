//! A running `vmm`: talk to its guest, signal it, see how it ends.

use std::fs;
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use crate::terminal::Terminal;
use crate::transcript::{Transcript, end_of, tail};
use crate::{count, leaks, patience};

/// How long a process that was started may take to execute another program.
const DAEMON_PATIENCE: Duration = Duration::from_secs(2);

/// What the guest's shell says when it waits for a command.
pub const PROMPT: &str = "vmm# ";

/// A `vmm` process. Killed and reaped on drop; nothing of it may be left then.
pub struct Machine {
    child: Child,
    mark: String,
    line: String,
    stdout: Transcript,
    stderr: Transcript,
    input: Option<Box<dyn Write + Send>>,
    terminal: Option<Terminal>,
    /// How much of the output was waited for already.
    heard: usize,
    commands: u32,
    status: Option<ExitStatus>,
}

/// How a process ended, and what it said.
#[derive(Debug)]
pub struct Ending {
    /// The command line, for messages.
    pub line: String,
    /// Exit code; `None` when a signal killed the process.
    pub code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// All of standard output.
    pub stdout: String,
    /// All of standard error.
    pub stderr: String,
}

impl Machine {
    pub(crate) fn new(
        child: Child,
        mark: String,
        line: String,
        (stdout, stderr): (Transcript, Transcript),
        input: Option<Box<dyn Write + Send>>,
        terminal: Option<Terminal>,
    ) -> Self {
        Self {
            child,
            mark,
            line,
            stdout,
            stderr,
            input,
            terminal,
            heard: 0,
            commands: 0,
            status: None,
        }
    }

    /// Id of the process that runs the machine. In a jail that is a child of the one that was started.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.inside().unwrap_or_else(|| self.child.id())
    }

    /// Id of the process that was started.
    #[must_use]
    pub fn outer_pid(&self) -> u32 {
        self.child.id()
    }

    /// Id of the process inside the jail, if there is one.
    #[must_use]
    pub fn inside(&self) -> Option<u32> {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        children.unwrap_or_default().split_whitespace().next()?.parse().ok()
    }

    /// The terminal of a machine that was started on one.
    #[must_use]
    pub fn terminal(&self) -> &Terminal {
        self.terminal.as_ref().expect("started with Vmm::on_terminal")
    }

    /// Everything on standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Everything on standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits until the output goes on with something that ends in `text`, and gives it.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        match self.stdout.wait(self.heard, |new| end_of(new, text)) {
            Some(len) => {
                let all = self.stdout.bytes();
                let heard = &all[self.heard..self.heard + len];
                self.heard += len;
                String::from_utf8_lossy(heard).into_owned()
            }
            None => self.give_up(&format!("{text:?} on standard output")),
        }
    }

    /// Waits until standard error contains `text`, and gives all of it.
    #[track_caller]
    pub fn wait_for_error(&mut self, text: &str) -> String {
        match self.stderr.wait(0, |all| end_of(all, text)) {
            Some(_) => self.stderr.text(),
            None => self.give_up(&format!("{text:?} on standard error")),
        }
    }

    /// Types `text`.
    #[track_caller]
    pub fn send(&mut self, text: impl AsRef<[u8]>) {
        if let Err(error) = self.try_send(text) {
            self.give_up(&format!("its standard input, which fails with: {error}"));
        }
    }

    /// The same for a process that may have ended.
    ///
    /// # Errors
    /// Nobody reads it any more.
    pub fn try_send(&mut self, text: impl AsRef<[u8]>) -> io::Result<()> {
        let input = self.input.as_mut().expect("a machine with an input");
        input.write_all(text.as_ref()).and_then(|()| input.flush())
    }

    /// Closes standard input.
    pub fn close_input(&mut self) {
        self.input = None;
    }

    /// Waits for the guest's first prompt.
    #[track_caller]
    pub fn booted(mut self) -> Self {
        self.wait_for(PROMPT);
        self
    }

    /// Runs a command in the guest's shell and gives its output, without the last line end. It must
    /// succeed.
    #[track_caller]
    pub fn shell(&mut self, command: &str) -> String {
        let (status, output) = self.try_shell(command);
        assert_eq!(status, 0, "`{command}` failed in the guest with:\n{output}\n{}", self.story());
        output
    }

    /// Runs a command in the guest's shell: its exit status and its output.
    #[track_caller]
    pub fn try_shell(&mut self, command: &str) -> (i32, String) {
        // The guest echoes what is typed, so the marks are typed in two pieces and found in one.
        self.commands += 1;
        let number = self.commands;
        self.send(format!("echo '<''{number}'; {{ {command}; }}; echo \"<\"\"/{number} $?>\"\n"));
        self.wait_for(&format!("<{number}\r"));
        let output = self.wait_for(&format!("</{number} "));
        let status = self.wait_for(">");
        self.wait_for(PROMPT);
        let output = output.trim_end_matches(&format!("</{number} ")).replace("\r", "");
        let status = status.trim_end_matches('>').parse();
        (status.unwrap_or(-1), output.trim_matches(['\r', '\n']).to_owned())
    }

    /// Types `exit` at the prompt, which powers the guest off, and expects that.
    #[track_caller]
    pub fn power_off(mut self) -> Ending {
        self.send("exit\n");
        self.expect_exit(0)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: libc::c_int) {
        let pid = libc::pid_t::try_from(self.outer_pid()).unwrap();
        // SAFETY: kill takes no pointers; the process is our child and not reaped, so the id is its own.
        let result = unsafe { libc::kill(pid, signal) };
        assert_eq!(result, 0, "kill: {}", io::Error::last_os_error());
    }

    /// Whether the process still runs.
    pub fn is_running(&mut self) -> bool {
        self.poll().is_none()
    }

    /// Waits for the end.
    #[must_use]
    #[track_caller]
    pub fn wait(mut self) -> Ending {
        let deadline = Instant::now() + patience();
        while self.poll().is_none() {
            if Instant::now() > deadline {
                self.give_up("its end");
            }
            thread::sleep(Duration::from_millis(1));
        }
        // A terminal is never closed as long as we hold its slave side.
        self.terminal = None;
        let left = !self.stderr.wait_closed() || !self.stdout.wait_closed();
        assert!(!left, "`{}` ended, but somebody holds its output open", self.line);
        let status = self.status.unwrap_or_default();
        Ending {
            line: self.line.clone(),
            code: status.code(),
            signal: status.signal(),
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
        }
    }

    /// Waits for the end, which must be with `code`.
    #[track_caller]
    pub fn expect_exit(self, code: i32) -> Ending {
        self.wait().expect_code(code)
    }

    /// Kills the process.
    pub fn kill(mut self) {
        self.end();
    }

    /// How many descriptors the process has open.
    #[must_use]
    pub fn open_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }

    /// Memory that this process has written to, in bytes, without the 32 MiB that a puppet has for RAM. Whether
    /// other processes share the program's pages does not change it.
    #[must_use]
    pub fn own_memory(&self) -> u64 {
        count::memory(self.pid(), 32 << 20).anonymous
    }

    /// How much of the guest's RAM, which is `ram` bytes in all, the host's memory holds, in bytes.
    #[must_use]
    pub fn guest_memory(&self, ram: u64) -> u64 {
        count::memory(self.pid(), ram).guest
    }

    /// How many threads the process has.
    #[must_use]
    pub fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.pid())).map_or(0, Iterator::count)
    }

    /// What happened, for a message that a person reads.
    #[must_use]
    pub fn story(&self) -> String {
        story(&self.line, &self.stdout.text(), &self.stderr.text())
    }

    fn poll(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().unwrap();
        }
        self.status
    }

    #[track_caller]
    fn give_up(&mut self, waited_for: &str) -> ! {
        let state = match self.poll() {
            Some(status) => format!("the process ended: {status}"),
            None => format!("not within {:?}{}", patience(), self.thread_states()),
        };
        panic!("waited for {waited_for}; {state}\n{}", self.story());
    }

    /// What each thread is doing, for the reader who wonders whether the guest or vmm hangs.
    fn thread_states(&self) -> String {
        let tasks = format!("/proc/{}/task", self.pid());
        let entries = fs::read_dir(tasks).into_iter().flatten().flatten();
        let threads = entries.map(|entry| {
            let read = |name| fs::read_to_string(entry.path().join(name)).unwrap_or_default();
            let stat = read("stat");
            // State, then user and system time in ticks, after the name in parentheses (proc(5)).
            let fields: Vec<&str> =
                stat.rsplit(')').next().unwrap_or_default().split(' ').collect();
            let field = |at: usize| fields.get(at).copied().unwrap_or("?");
            let (user, system) = (field(12), field(13));
            format!(
                "\n  thread {}: {} in {}, ticks {user} user, {system} system",
                read("comm").trim(),
                field(1),
                read("wchan")
            )
        });
        threads.collect()
    }

    fn end(&mut self) {
        if self.poll().is_none() {
            let inside = self.inside();
            // Both fail only when the process is gone, which is what is wanted.
            let _ = self.child.kill();
            self.status = self.child.wait().ok();
            // The inside of a jail ends a moment later, and its parent is now somebody who may take time to see it.
            let deadline = Instant::now() + patience();
            while inside.is_some_and(leaks::is_alive) && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
        if thread::panicking() {
            return;
        }
        // A daemon carries the mark until it executes its program.
        let deadline = Instant::now() + DAEMON_PATIENCE;
        let mut left = leaks::processes_marked(&self.mark);
        while !left.is_empty() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
            left = leaks::processes_marked(&self.mark);
        }
        if !left.is_empty() {
            panic!("`{}` left processes behind: {left:?}", self.line);
        }
    }
}

impl Ending {
    /// Requires an exit code.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        let is_right = self.code == Some(code);
        assert!(
            is_right,
            "exit code {:?}, signal {:?}; wanted {code}\n{}",
            self.code,
            self.signal,
            self.story()
        );
        self
    }

    /// The last line of standard error.
    #[must_use]
    pub fn last_line(&self) -> &str {
        self.stderr.lines().last().unwrap_or_default()
    }

    /// Requires that one line on standard error says everything, with each of `words` in it.
    #[track_caller]
    pub fn expect_one_line(self, words: &[&str]) -> Self {
        assert_eq!(self.stderr.lines().count(), 1, "one line of explanation\n{}", self.story());
        for word in words {
            assert!(self.stderr.contains(word), "{word:?} is not in the message\n{}", self.story());
        }
        self
    }

    /// What happened, for a message that a person reads.
    #[must_use]
    pub fn story(&self) -> String {
        story(&self.line, &self.stdout, &self.stderr)
    }
}

fn story(line: &str, stdout: &str, stderr: &str) -> String {
    const LINES: usize = 40;
    format!(
        "--- command: {line}\n--- standard output, its end:\n{}\n--- standard error, its end:\n{}\n---",
        tail(stdout, LINES),
        tail(stderr, LINES)
    )
}
