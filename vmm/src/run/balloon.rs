//! Requests about the balloon of a running machine.

use devices::event::chain;
use devices::virtio::balloon::{BalloonControl, BalloonError};
use serde_json::{Value, json};

use super::{Session, check};
use crate::requests::{Answer, BalloonCommand, Code, Outcome, Refusal};

impl Session {
    pub(super) fn obey_about_balloon(&mut self, command: BalloonCommand) -> Outcome {
        let Some(life) = &mut self.life else { return Ok(Answer::Done) };
        let control = life.machine.controls().balloon().ok_or_else(check::no_balloon)?;
        let refused = |error| refusal(&error);
        match command {
            BalloonCommand::Resize(mib) => {
                control.set_target(mib).map_err(refused)?;
                // What is asked about the configuration later, and a machine that is built again, have it too.
                if let (Some(plan), Some(own)) = (&mut life.plan.balloon, &mut self.config.balloon)
                {
                    plan.size_mib = mib;
                    own.size_bytes = u64::from(mib) << 20;
                }
            }
            BalloonCommand::Poll(interval) => {
                // Firecracker has the guest offer statistics, or not, for the whole of its life.
                if interval.is_zero() != control.stats_interval().map_err(refused)?.is_zero() {
                    let message = "statistics cannot be turned on or off while the machine runs";
                    return Err(Refusal::new(Code::BadValue, message));
                }
                control.set_stats_interval(interval).map_err(refused)?;
                if let (Some(plan), Some(own)) = (&mut life.plan.balloon, &mut self.config.balloon)
                {
                    (plan.statistics, own.statistics) = (Some(interval), Some(interval));
                }
            }
            BalloonCommand::StartHinting { acknowledge } => {
                control.start_hinting(acknowledge).map_err(refused)?;
            }
            BalloonCommand::StopHinting => control.stop_hinting().map_err(refused)?,
            BalloonCommand::ShowStatistics => return statistics(control).map_err(refused),
            BalloonCommand::ShowHinting => {
                let status = control.hinting_status().map_err(refused)?;
                return Ok(Answer::Value(json!({
                    "host_cmd": status.host_command,
                    "guest_cmd": status.guest_command,
                })));
            }
        }
        Ok(Answer::Done)
    }
}

/// Sizes, and what the guest has said.
fn statistics(control: &BalloonControl) -> Result<Answer, BalloonError> {
    let said = control.statistics()?;
    let mut all = json!({
        "target_pages": control.target_pages(),
        "actual_pages": control.actual_pages(),
        "target_mib": control.target(),
        "actual_mib": control.actual(),
    });
    // Numbers under fixed keys: the serializer has nothing to refuse.
    if let (Value::Object(all), Ok(Value::Object(said))) = (&mut all, serde_json::to_value(said)) {
        all.extend(said);
    }
    Ok(Answer::Value(all))
}

fn refusal(error: &BalloonError) -> Refusal {
    let code = match error {
        BalloonError::Host(_) => Code::HostFailure,
        _ => Code::BadConfiguration,
    };
    Refusal::new(code, chain(error))
}
