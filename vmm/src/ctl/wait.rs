//! Verbs that wait: for a guest to be ready, for a machine to end.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::client::Client;
use super::show::{self, at};
use super::{Awaited, CtlError, action, print};

/// How often a machine is looked for that is not there yet.
const RETRY: Duration = Duration::from_millis(5);

/// Waits for `what` at most for `timeout`, in which the machine itself may still have to come.
pub(super) fn wait(
    socket: &Path,
    what: Awaited,
    timeout: Option<Duration>,
    json: bool,
) -> Result<u8, CtlError> {
    let deadline = timeout.map(|limit| Instant::now() + limit);
    let mut client = connect(socket, deadline)?;
    client.give_up_at(deadline);
    let (path, in_vain) = match what {
        Awaited::Ready => ("/vm/wait/ready", "the guest was not ready"),
        Awaited::Exit => ("/vm/wait", "the machine did not end"),
    };
    let answer = client.get(path).map_err(|error| match (error, timeout) {
        (CtlError::Broken(source), Some(limit)) if is_timeout(&source) => {
            CtlError::WaitedInVain { what: in_vain, limit }
        }
        (other, _) => other,
    })?;
    print(show::outcome(&answer, json))?;
    Ok(match what {
        Awaited::Ready => 0,
        Awaited::Exit => exit_code(&answer)?,
    })
}

/// Ends the machine by `client`, and waits for its end.
pub(super) fn stop(
    socket: &Path,
    mut client: Client,
    grace: Option<Duration>,
    json: bool,
) -> Result<u8, CtlError> {
    // First somebody who will hear of the end, however soon that is.
    let mut waiter = Client::connect(socket)?;
    // Once it has had an answer, what it says is heard before what others say later.
    waiter.get("/")?;
    waiter.say("GET", "/vm/wait", "")?;
    let (method, path, body) = action("Stop", grace);
    client.order(method, &path, &body)?;
    let answer = waiter.answer()?;
    let answer = serde_json::from_slice(&answer);
    let answer = answer.map_err(|_| CtlError::Nonsense("its body is not JSON"))?;
    print(show::outcome(&answer, json))?;
    Ok(0)
}

fn connect(socket: &Path, deadline: Option<Instant>) -> Result<Client, CtlError> {
    loop {
        match Client::connect(socket) {
            Err(CtlError::NoMachine { source, .. })
                if is_early(&source) && deadline.is_some_and(|at| Instant::now() + RETRY < at) =>
            {
                std::thread::sleep(RETRY);
            }
            other => return other,
        }
    }
}

/// Whether somebody may come to listen there.
fn is_early(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

fn exit_code(answer: &Value) -> Result<u8, CtlError> {
    let code = at(answer, "code").as_u64().and_then(|code| u8::try_from(code).ok());
    code.ok_or(CtlError::Nonsense("it has no exit code"))
}
