//! Session tokens: secrets with an end. Nothing of a request goes into them, so there is nothing to check but
//! whether they were given out.

use std::fmt::Write;
use std::time::Duration;

/// Most tokens that are valid at the same time. A guest that asks for more loses those that would end first.
const MAX_TOKENS: usize = 1024;
/// Bytes of a secret.
pub(super) const SECRET: usize = 24;

/// The tokens that were given out and have not ended.
#[derive(Default)]
pub(super) struct Tokens {
    all: Vec<Token>,
}

struct Token {
    secret: [u8; SECRET],
    end: Duration,
}

impl Tokens {
    /// Gives out `secret`, valid for `ttl` from `now` on, as text.
    pub(super) fn add(&mut self, secret: [u8; SECRET], now: Duration, ttl: Duration) -> String {
        self.all.retain(|token| token.end > now);
        if self.all.len() >= MAX_TOKENS
            && let Some(first) =
                (0..self.all.len()).min_by_key(|at| self.all.get(*at).map(|t| t.end))
        {
            self.all.swap_remove(first);
        }
        self.all.push(Token { secret, end: now.saturating_add(ttl) });
        text(&secret)
    }

    /// Whether `token` was given out and has not ended.
    pub(super) fn is_valid(&self, token: &[u8], now: Duration) -> bool {
        let Some(secret) = secret(token) else { return false };
        let mut valid = self.all.iter().filter(|known| known.end > now);
        // Every byte is compared, however many are right, so that the time tells nothing.
        valid.any(|known| known.secret.iter().zip(secret).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0)
    }
}

fn text(secret: &[u8; SECRET]) -> String {
    let mut text = String::with_capacity(2 * SECRET);
    for byte in secret {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// What [`text`] was made of.
fn secret(text: &[u8]) -> Option<[u8; SECRET]> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (pairs, []) = text.as_chunks::<2>() else { return None };
    let mut secret = [0; SECRET];
    if pairs.len() != SECRET {
        return None;
    }
    for (byte, [high, low]) in secret.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_token_is_valid_until_its_end() {
        let mut tokens = Tokens::default();
        let token = tokens.add([0xa5; SECRET], 10 * SECOND, 5 * SECOND);
        assert_eq!(token, "a5".repeat(SECRET));
        assert!(tokens.is_valid(token.as_bytes(), 10 * SECOND));
        assert!(tokens.is_valid(token.as_bytes(), 15 * SECOND - Duration::from_nanos(1)));
        assert!(!tokens.is_valid(token.as_bytes(), 15 * SECOND));
        for other in
            ["", "a5", &"a6".repeat(SECRET), &"a5".repeat(SECRET + 1), &"zz".repeat(SECRET)]
        {
            assert!(!tokens.is_valid(other.as_bytes(), 10 * SECOND), "{other}");
        }
    }

    #[test]
    fn too_many_tokens_displace_those_that_end_first() {
        let mut tokens = Tokens::default();
        let secret = |n: usize| {
            let mut secret = [0; SECRET];
            secret[..8].copy_from_slice(&n.to_le_bytes());
            secret
        };
        let short = tokens.add([1; SECRET], SECOND, SECOND);
        let long = tokens.add([2; SECRET], SECOND, 1000 * SECOND);
        for n in 0..MAX_TOKENS - 1 {
            tokens.add(secret(n), SECOND, 10 * SECOND);
        }
        assert_eq!(tokens.all.len(), MAX_TOKENS);
        assert!(!tokens.is_valid(short.as_bytes(), SECOND));
        assert!(tokens.is_valid(long.as_bytes(), SECOND));
        tokens.add([3; SECRET], 20 * SECOND, SECOND);
        assert_eq!(tokens.all.len(), 2, "those that ended are forgotten");
    }
}
