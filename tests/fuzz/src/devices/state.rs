//! States of devices: true ones, from which another device goes on as if nothing had been, and lies.

use devices::state::State;
use serde_json::{Map, Value, json};

use crate::bytes::Bytes;
use crate::rig::{Rig, Subject};

use super::{balloon, block, console, echo, net, rng, vsock};

/// Steps before a device is saved, and after another has gone on from there.
const STEPS: usize = 8;

/// See the module.
pub fn run(input: &[u8]) {
    let mut input = Bytes::new(input);
    let subjects: [fn() -> Box<dyn Subject>; 7] = [
        rng::subject,
        block::subject,
        net::subject,
        console::subject,
        vsock::subject,
        balloon::subject,
        echo::subject,
    ];
    let mut subject = input.of(&subjects)();
    let options = input.take(2);
    let mut rig = Rig::new(subject.device(&mut Bytes::new(options)));
    let features = if input.one_in(2) { u64::MAX } else { input.u64() };
    rig.bring_up(features, &mut Bytes::new(&[]));
    live(&mut *subject, &mut rig, &mut input);

    let saved = rig.save();
    let is_true = input.one_in(4);
    let (state, options) =
        if is_true { (saved, options) } else { (lie(saved, &mut input), input.take(2)) };
    let device = subject.device(&mut Bytes::new(options));
    let restored = rig.go_on_with(device, &state, is_true);
    if let Err(error) = &restored {
        assert!(!is_true, "a device does not take what one like it has saved: {error}");
        let line = error.to_string();
        assert!(!line.is_empty() && !line.contains('\n'), "{line:?}");
    }
    live(&mut *subject, &mut rig, &mut input);
    rig.run();
    if restored.is_ok() {
        // What it is by now can be saved as well.
        rig.save();
    }
    // A state that it did not take leaves a device of no use.
    if restored.is_ok() {
        subject.calm();
        rig.bring_up(u64::MAX, &mut Bytes::new(&[]));
        assert!(!rig.needs_reset(), "the device does not start again");
        subject.good(&mut rig);
    }
}

fn live(subject: &mut dyn Subject, rig: &mut Rig, input: &mut Bytes<'_>) {
    for _ in 0..STEPS {
        match input.below(8) {
            0..3 => subject.request(rig, input),
            3 => subject.host(input),
            4 => rig.any_access(input),
            5 => rig.run(),
            // Most inputs are short.
            _ => break,
        }
    }
}

/// Something else than `saved`: another number here and there, or anything at all.
fn lie(saved: State, input: &mut Bytes<'_>) -> State {
    if input.one_in(8) {
        return serde_json::from_slice(input.some()).unwrap_or_default();
    }
    let value = serde_json::to_value(saved).expect("text");
    let mut fields: Map<String, Value> = serde_json::from_value(value).expect("an object");
    for _ in 0..=input.below(3) {
        let names: Vec<_> = fields.keys().cloned().collect();
        let Some(name) = names.get(usize::from(input.u16()) % names.len().max(1)) else { break };
        let value = match input.below(8) {
            0 => json!(input.u64()),
            1 => json!(input.u16()),
            2 => json!(1_u64 << (input.u8() & 63)),
            3 => json!(fields[name].as_u64().unwrap_or(0).wrapping_add(input.u8().into())),
            4 => json!(fields[name].as_u64().unwrap_or(0).wrapping_sub(input.u8().into())),
            5 => {
                [json!(-1), json!("1"), json!(null), json!(1.5), json!({})][input.below(5)].clone()
            }
            6 => {
                fields.remove(name);
                continue;
            }
            _ => json!(input.u8()),
        };
        fields.insert(name.clone(), value);
    }
    serde_json::from_value(Value::Object(fields)).expect("an object is a state")
}
