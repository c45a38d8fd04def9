//! What a device was like at one moment: numbers with names, enough to make another device go on from there.
//!
//! A reader gives a default for each name that it knows and passes over the others, so that fields can be added:
//! an older state is read by the defaults, a newer one without what is new. Numbers come from a file and are
//! believed by nobody. This knows no device, and no file format but the JSON object that a state is.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a number must be of which nothing else is said.
const IN_RANGE: &str = "a number in range";

/// A device at rest, as a flat JSON object.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct State(Map<String, Value>);

/// Why a device cannot be saved, or cannot go on from a state. The caller knows which device it was.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A field is not what it must be.
    #[error("{field} is {value}, which is not {wanted}")]
    Field {
        /// Its name.
        field: String,
        /// What the state says, as JSON.
        value: String,
        /// What it may be.
        wanted: &'static str,
    },
    /// The driver relies on what this device does not offer.
    #[error(
        "the guest uses features {missing:#x}, which the device does not offer here; \
         give it the same settings and the same kind of host resource as before"
    )]
    Features {
        /// The feature bits.
        missing: u64,
    },
    /// The device that is to go on from a state is in use already.
    #[error("the device has been used before")]
    NotFresh,
    /// The device runs, or has something in flight: it must be paused first.
    #[error("the device is not at rest")]
    Busy,
    /// The device does not start with this state.
    #[error("the device cannot be started")]
    Start(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl State {
    /// A state without a field.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether it has no field.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Sets the number `name`.
    pub fn set(&mut self, name: &str, value: impl Into<u64>) {
        self.insert(name, value.into());
    }

    // Devices are saved seldom: what they have in common is there once.
    #[inline(never)]
    fn insert(&mut self, name: &str, value: u64) {
        self.0.insert(name.to_owned(), Value::from(value));
    }

    /// The number `name`, or `default` where it is absent.
    ///
    /// # Errors
    /// [`StateError::Field`] when it is no number, or none of its type.
    pub fn number<T: TryFrom<u64>>(&self, name: &str, default: T) -> Result<T, StateError> {
        self.checked(name, default, IN_RANGE, |_| true)
    }

    /// The number `name`, if it is there.
    ///
    /// # Errors
    /// As [`Self::number`].
    pub fn optional<T: TryFrom<u64>>(&self, name: &str) -> Result<Option<T>, StateError> {
        let number = self.get(name, IN_RANGE)?;
        number.map(|n| T::try_from(n).map_err(|_| self.wrong(name, IN_RANGE))).transpose()
    }

    /// The number `name` if it is one that `is_right`; `default` where it is absent. `wanted` says which ones are.
    ///
    /// # Errors
    /// [`StateError::Field`].
    pub fn checked<T: TryFrom<u64>>(
        &self,
        name: &str,
        default: T,
        wanted: &'static str,
        is_right: impl FnOnce(&T) -> bool,
    ) -> Result<T, StateError> {
        let Some(number) = self.get(name, wanted)? else { return Ok(default) };
        let right = T::try_from(number).ok().filter(is_right);
        right.ok_or_else(|| self.wrong(name, wanted))
    }

    /// Whether the number `name` is 1; `default` where it is absent.
    ///
    /// # Errors
    /// [`StateError::Field`] when it is neither 0 nor 1.
    pub fn flag(&self, name: &str, default: bool) -> Result<bool, StateError> {
        let number = self.checked(name, u8::from(default), "0 or 1", |n| *n <= 1)?;
        Ok(number == 1)
    }

    /// That what the state says of `name` is not `wanted`.
    #[must_use]
    #[cold]
    #[inline(never)]
    pub fn wrong(&self, name: &str, wanted: &'static str) -> StateError {
        let value = self.0.get(name).map_or_else(|| "absent".to_owned(), Value::to_string);
        StateError::Field { field: name.to_owned(), value, wanted }
    }

    /// Adds all fields of `part`, each with `prefix` before its name.
    pub fn put(&mut self, prefix: &str, part: Self) {
        for (name, value) in part.0 {
            self.0.insert(format!("{prefix}{name}"), value);
        }
    }

    /// The fields whose names begin with `prefix`, without it.
    #[must_use]
    pub fn part(&self, prefix: &str) -> Self {
        let parts = self.0.iter().filter_map(|(name, value)| {
            Some((name.strip_prefix(prefix)?.to_owned(), value.clone()))
        });
        Self(parts.collect())
    }

    #[inline(never)]
    fn get(&self, name: &str, wanted: &'static str) -> Result<Option<u64>, StateError> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        value.as_u64().map(Some).ok_or_else(|| self.wrong(name, wanted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> State {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_is_set_is_read_again_through_its_text() {
        let mut state = State::new();
        state.set("a", u64::MAX);
        state.set("b", 7_u16);
        state.set("c", true);
        let text = serde_json::to_string(&state).unwrap();
        assert_eq!(text, r#"{"a":18446744073709551615,"b":7,"c":1}"#);
        let state = parsed(&text);
        assert_eq!(state.number("a", 0_u64).unwrap(), u64::MAX);
        assert_eq!(state.number("b", 0_u8).unwrap(), 7);
        assert!(state.flag("c", false).unwrap());
    }

    #[test]
    fn absent_fields_have_defaults_and_unknown_ones_are_passed_over() {
        let state = parsed(r#"{"from the future": ["anything"], "b": 1}"#);
        assert_eq!(state.number("a", 9_u32).unwrap(), 9);
        assert!(state.flag("c", true).unwrap());
        assert_eq!(state.number("b", 0_u8).unwrap(), 1);
    }

    #[test]
    fn what_does_not_fit_is_refused_by_name() {
        let state = parsed(r#"{"a": 65536, "b": -1, "c": 1.5, "d": "1", "e": null, "f": 2}"#);
        for name in ["a", "b", "c", "d", "e"] {
            let error = state.number(name, 0_u16).unwrap_err().to_string();
            assert!(error.starts_with(&format!("{name} is ")), "{error}");
        }
        let error = state.flag("f", false).unwrap_err().to_string();
        assert_eq!(error, "f is 2, which is not 0 or 1");
        let odd = state.checked("f", 1_u8, "an odd number", |n| n % 2 == 1).unwrap_err();
        assert_eq!(odd.to_string(), "f is 2, which is not an odd number");
    }

    #[test]
    fn parts_keep_their_names_apart() {
        let (mut inner, mut outer) = (State::new(), State::new());
        inner.set("size", 3_u8);
        outer.set("size", 4_u8);
        outer.put("queue.", inner.clone());
        assert_eq!(outer.part("queue."), inner);
        assert_eq!(outer.number("size", 0_u8).unwrap(), 4);
        assert!(outer.part("other.").is_empty());
    }
}
