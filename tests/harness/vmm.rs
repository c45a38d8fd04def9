//! A command line of `vmm` in the making.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::PipeWriter;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::confine::{self, Confinement};
use crate::leaks;
use crate::machine::{Ending, Machine};
use crate::terminal::Terminal;
use crate::trace;
use crate::transcript::Transcript;
use crate::{Scratch, artifacts};

/// What the process finds on its standard input.
enum Input {
    Pipe,
    Null,
    File(PathBuf),
    Terminal,
}

/// Builds a command line; [`Self::spawn`] and [`Self::run`] run it.
#[must_use]
pub struct Vmm {
    program: PathBuf,
    args: Vec<OsString>,
    input: Input,
    output: Option<PipeWriter>,
    directory: Option<PathBuf>,
    confinement: Vec<Confinement>,
    environment: Vec<(String, String)>,
    has_environment: bool,
    /// Whether it runs in a jail when all do.
    is_jailed: bool,
}

impl Default for Vmm {
    fn default() -> Self {
        Self::new()
    }
}

impl Vmm {
    /// `vmm` without arguments; a pipe to its standard input.
    pub fn new() -> Self {
        Self::program(artifacts::vmm())
    }

    /// The same, started by another path.
    pub fn program(program: impl Into<PathBuf>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            input: Input::Pipe,
            output: None,
            directory: None,
            confinement: Vec::new(),
            environment: Vec::new(),
            has_environment: true,
            is_jailed: true,
        }
    }

    /// A small machine with the 32-bit puppet, which gets `words` as its command line and, unless the test
    /// says otherwise, talks on standard input and output.
    pub fn puppet(words: &str) -> Self {
        Self::new().kernel(artifacts::puppet()).args(["--memory", "32M", "--cmdline", words])
    }

    /// A machine that goes on from the snapshot in `directory`, its consoles as `vmm` is told.
    pub fn restored(directory: impl AsRef<Path>) -> Self {
        Self::new().arg("--restore").arg(directory.as_ref())
    }

    /// The reference kernel with the guest's files in an initrd: the quickest Linux.
    pub fn linux() -> Self {
        Self::new()
            .kernel(artifacts::guest("bzImage"))
            .arg("--initrd")
            .arg(artifacts::guest("initramfs.cpio"))
            .args(["--memory", "128M"])
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// `--kernel path`
    pub fn kernel(self, path: impl AsRef<Path>) -> Self {
        self.arg("--kernel").arg(path.as_ref())
    }

    /// `--disk path` and its options, such as `",readonly"`.
    pub fn disk(self, path: impl AsRef<Path>, options: &str) -> Self {
        let mut value = path.as_ref().as_os_str().to_owned();
        value.push(options);
        self.arg("--disk").arg(value)
    }

    /// `--console target`
    pub fn console(self, target: &str) -> Self {
        self.args(["--console", target])
    }

    /// `--serial target`
    pub fn serial(self, target: &str) -> Self {
        self.args(["--serial", target])
    }

    /// Runs in `scratch` instead of the current directory.
    pub fn inside(mut self, scratch: &Scratch) -> Self {
        self.directory = Some(scratch.path().to_owned());
        self
    }

    /// Nothing to read on standard input.
    pub fn without_input(mut self) -> Self {
        self.input = Input::Null;
        self
    }

    /// Standard input is a file.
    pub fn input_from(mut self, path: &Path) -> Self {
        self.input = Input::File(path.to_owned());
        self
    }

    /// Standard input and output are a terminal, which is the controlling one.
    pub fn on_terminal(mut self) -> Self {
        self.input = Input::Terminal;
        self
    }

    /// Standard output is this pipe, which the test reads or not.
    pub fn output_to(mut self, pipe: PipeWriter) -> Self {
        self.output = Some(pipe);
        self
    }

    /// Takes something away from the process before it starts.
    pub fn confined(mut self, confinement: Confinement) -> Self {
        self.confinement.push(confinement);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Takes the environment away, which the C library's start reads word by word.
    pub fn without_environment(mut self) -> Self {
        self.has_environment = false;
        self
    }

    /// Runs as any program does, even when all others run in a jail: for tests of what a jail takes away, and of what
    /// `vmm` costs without one.
    pub fn without_jail(mut self) -> Self {
        self.is_jailed = false;
        self
    }

    /// Runs under a tool: `command` with its arguments, then the program and its own.
    pub fn under<S: AsRef<OsStr>>(mut self, command: &[S]) -> Self {
        self.is_jailed = false;
        let mut words: Vec<OsString> =
            command.iter().map(|word| word.as_ref().to_owned()).collect();
        words.push(self.program.into_os_string());
        words.append(&mut self.args);
        self.program = words.remove(0).into();
        self.args = words;
        self
    }

    /// Runs to the end, which must come by itself.
    #[must_use]
    pub fn run(self) -> Ending {
        self.without_input().spawn().wait()
    }

    /// Starts the process.
    #[must_use]
    pub fn spawn(mut self) -> Machine {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if self.is_jailed && are_all_jailed() && self.runs_a_machine() {
            self.args.push("--jail".into());
        }
        let mark = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        if let Some(directory) = trace::directory()
            && self.program == artifacts::vmm()
        {
            self = self.under(&trace::command(&directory.join(&mark)));
        }
        let line = self.command_line();
        let mut command = Command::new(&self.program);
        if !self.has_environment {
            command.env_clear();
        }
        command.args(&self.args).stderr(Stdio::piped()).env(leaks::MARK, &mark);
        command.envs(self.environment);
        if let Some(directory) = self.directory {
            command.current_dir(directory);
        }
        let mut terminal = None;
        match self.input {
            Input::Pipe => drop(command.stdin(Stdio::piped()).stdout(Stdio::piped())),
            Input::Null => drop(command.stdin(Stdio::null()).stdout(Stdio::piped())),
            Input::File(path) => {
                let file = File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                command.stdin(file).stdout(Stdio::piped());
            }
            Input::Terminal => {
                let new = Terminal::new();
                command.stdin(new.slave()).stdout(new.slave());
                confine::lead_session(&mut command);
                terminal = Some(new);
            }
        }
        if let Some(pipe) = self.output {
            command.stdout(pipe);
        }
        confine::apply(&mut command, self.confinement);
        let child = command.spawn().unwrap_or_else(|e| panic!("{line}: {e}"));
        // Ours are copies of the terminal's slave side, which would keep it open.
        drop(command);
        assemble(child, mark, line, terminal)
    }

    fn runs_a_machine(&self) -> bool {
        let has = |flag: &str| self.args.iter().any(|arg| arg.to_string_lossy().starts_with(flag));
        let runs = has("--kernel") || has("--restore") || has("--api-sock") || has("--config-file");
        runs && !has("--jail") && !has("--dry-run")
    }

    fn command_line(&self) -> String {
        let mut line = String::from("vmm");
        for arg in &self.args {
            let arg = arg.to_string_lossy();
            line.push(' ');
            if arg.contains([' ', '\n']) {
                line += &format!("'{arg}'");
            } else {
                line += &arg;
            }
        }
        line
    }
}

/// Whether every machine runs in a jail, unless its test says otherwise: `VMM_TEST_JAIL=1`.
#[must_use]
pub fn are_all_jailed() -> bool {
    std::env::var("VMM_TEST_JAIL").is_ok_and(|value| value == "1")
}

fn assemble(mut child: Child, mark: String, line: String, terminal: Option<Terminal>) -> Machine {
    let stderr = Transcript::of(child.stderr.take().unwrap());
    let stdout = match (&terminal, child.stdout.take()) {
        (Some(terminal), _) => Transcript::of(terminal.master()),
        (None, Some(pipe)) => Transcript::of(pipe),
        (None, None) => Transcript::of(std::io::empty()),
    };
    let input: Option<Box<dyn std::io::Write + Send>> = match (&terminal, child.stdin.take()) {
        (Some(terminal), _) => Some(Box::new(terminal.master())),
        (None, Some(pipe)) => Some(Box::new(pipe)),
        (None, None) => None,
    };
    Machine::new(child, mark, line, (stdout, stderr), input, terminal)
}
