//! CPU templates as users write them: Firecracker's JSON of `kvm_capabilities`, `cpuid_modifiers` and
//! `msr_modifiers`, in a file of its own or inside a configuration file.
//!
//! What a template does to a processor is `arch::template`'s business.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use arch::template::{Bits, CpuTemplate, CpuidModifier, CpuidRegister, MsrModifier};
use serde::de::value::MapAccessDeserializer;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::error::ConfigError;
use super::file;

/// Where the template is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CpuTemplateConfig {
    /// In this file.
    File(PathBuf),
    /// Here.
    Inline(CpuTemplate),
}

impl CpuTemplateConfig {
    /// The template itself; reads the file if it is in one.
    ///
    /// # Errors
    /// [`ConfigError::CpuTemplate`] with the file's name, the place in it, and what is wrong there.
    pub fn load(&self) -> Result<CpuTemplate, ConfigError> {
        match self {
            Self::Inline(template) => Ok(template.clone()),
            Self::File(path) => read(path),
        }
    }
}

fn read(path: &Path) -> Result<CpuTemplate, ConfigError> {
    let template: Result<Wire, _> = file::read_text(path).and_then(|text| file::parse_json(&text));
    match template {
        Ok(template) => Ok(template.into()),
        Err(source) => Err(ConfigError::CpuTemplate { path: path.to_owned(), source }),
    }
}

/// A path, or the template itself.
impl<'de> Deserialize<'de> for CpuTemplateConfig {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = CpuTemplateConfig;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a CPU template or the path of one")
            }

            fn visit_str<E>(self, path: &str) -> Result<Self::Value, E> {
                Ok(CpuTemplateConfig::File(path.into()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                let wire = Wire::deserialize(MapAccessDeserializer::new(map))?;
                Ok(CpuTemplateConfig::Inline(wire.into()))
            }
        }

        from.deserialize_any(Either)
    }
}

impl Serialize for CpuTemplateConfig {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::File(path) => super::plan::path_as_text(path, to),
            Self::Inline(template) => Wire::from(template).serialize(to),
        }
    }
}

/// The template in JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wire {
    #[serde(default)]
    kvm_capabilities: Vec<Text<Capability>>,
    #[serde(default)]
    cpuid_modifiers: Vec<WireCpuid>,
    #[serde(default)]
    msr_modifiers: Vec<WireMsr>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireCpuid {
    leaf: Text<Number>,
    subleaf: Text<Number>,
    /// KVM's flags of the answer. Leaf and subleaf name it well enough, so they are not looked at.
    #[serde(default)]
    flags: u32,
    modifiers: Vec<WireRegister>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireRegister {
    #[serde(with = "RegisterName")]
    register: CpuidRegister,
    bitmap: Text<Bits<u32>>,
}

/// How a register is written.
#[derive(Serialize, Deserialize)]
#[serde(remote = "CpuidRegister", rename_all = "lowercase")]
enum RegisterName {
    Eax,
    Ebx,
    Ecx,
    Edx,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WireMsr {
    addr: Text<Number>,
    bitmap: Text<Bits<u64>>,
}

/// A value that is a string in JSON.
struct Text<T>(T);

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Text<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

impl<T: fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&self.0)
    }
}

/// A register's number: with `0x`, as manuals have it, or with `0b`.
struct Number(u32);

impl FromStr for Number {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (digits, radix) = match (text.strip_prefix("0x"), text.strip_prefix("0b")) {
            (Some(digits), _) => (digits, 16),
            (_, Some(digits)) => (digits, 2),
            _ => (text, 10),
        };
        // `from_str_radix` would take a sign.
        let number =
            if digits.starts_with('+') { None } else { u32::from_str_radix(digits, radix).ok() };
        number
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not a number of 32 bits such as \"0x80000001\""))
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// A capability of KVM that is needed, or with `!` one that is not: only what nothing works without is asked for
/// anyway, so there is nothing to take back.
enum Capability {
    Needed(u32),
    NotNeeded(u32),
}

impl FromStr for Capability {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |digits: &str| {
            digits.parse().map_err(|_| {
                format!("{text:?} is not a KVM capability such as \"171\" or \"!171\"")
            })
        };
        match text.strip_prefix('!') {
            Some(digits) => number(digits).map(Self::NotNeeded),
            None => number(text).map(Self::Needed),
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Needed(number) => write!(f, "{number}"),
            Self::NotNeeded(number) => write!(f, "!{number}"),
        }
    }
}

impl From<Wire> for CpuTemplate {
    fn from(wire: Wire) -> Self {
        let capabilities = wire.kvm_capabilities.into_iter().filter_map(|text| match text.0 {
            Capability::Needed(number) => Some(number),
            Capability::NotNeeded(_) => None,
        });
        let cpuid = wire.cpuid_modifiers.into_iter().map(|wire| CpuidModifier {
            leaf: wire.leaf.0.0,
            subleaf: wire.subleaf.0.0,
            registers: wire.modifiers.into_iter().map(|it| (it.register, it.bitmap.0)).collect(),
        });
        let msrs = wire.msr_modifiers.into_iter();
        let msrs = msrs.map(|wire| MsrModifier { index: wire.addr.0.0, bits: wire.bitmap.0 });
        Self { capabilities: capabilities.collect(), cpuid: cpuid.collect(), msrs: msrs.collect() }
    }
}

impl From<&CpuTemplate> for Wire {
    fn from(template: &CpuTemplate) -> Self {
        let capabilities = template.capabilities.iter();
        let cpuid = template.cpuid.iter().map(|modifier| WireCpuid {
            leaf: Text(Number(modifier.leaf)),
            subleaf: Text(Number(modifier.subleaf)),
            flags: 0,
            modifiers: modifier
                .registers
                .iter()
                .map(|&(register, bits)| WireRegister { register, bitmap: Text(bits) })
                .collect(),
        });
        let msrs = template.msrs.iter();
        let msrs =
            msrs.map(|msr| WireMsr { addr: Text(Number(msr.index)), bitmap: Text(msr.bits) });
        Self {
            kvm_capabilities: capabilities
                .map(|&number| Text(Capability::Needed(number)))
                .collect(),
            cpuid_modifiers: cpuid.collect(),
            msr_modifiers: msrs.collect(),
        }
    }
}

#[cfg(test)]
mod tests;
