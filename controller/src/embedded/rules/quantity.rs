//! Kubernetes' `quantity` in CEL: `quantity("10Gi").isGreaterThan(quantity("1G"))`.

use std::any::Any;

use cel::common::types::{CelBool, CelInt, CelString, STRING_TYPE, Type};
use cel::common::value::{CowVal, StaticVal, Val};
use cel::{DeclarationError, Env, ExecutionError};

const NAME: &str = "kubernetes.Quantity";
static QUANTITY: Type = Type::new_unspecified_type(NAME);

/// A quantity in units of 10^-9, exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Quantity(i128);

const NANOS: i128 = 1_000_000_000;

impl Quantity {
    fn parse(text: &str) -> Option<Self> {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let end = unsigned
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(unsigned.len());
        let (digits, suffix) = unsigned.split_at_checked(end)?;
        let (whole, part) = digits.split_once('.').unwrap_or((digits, ""));
        if (whole.is_empty() && part.is_empty()) || part.len() > 9 || part.contains('.') {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let part: i128 = format!("{part:0<9}").parse().ok()?;
        let (numerator, denominator) = factor(suffix)?;
        let nanos = whole
            .checked_mul(NANOS)?
            .checked_add(part)?
            .checked_mul(numerator)?;
        // Kubernetes rounds up what is finer than it can say.
        let nanos = nanos.checked_add(denominator - 1)? / denominator;
        Some(Self(if text.starts_with('-') { -nanos } else { nanos }))
    }
}

fn factor(suffix: &str) -> Option<(i128, i128)> {
    let decimal = |power: u32| Some((10_i128.checked_pow(power)?, 1));
    let binary = |power: u32| Some((1_i128.checked_shl(power)?, 1));
    match suffix {
        "" => decimal(0),
        "n" => Some((1, 1_000_000_000)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1_000)),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        exponent => match exponent.strip_prefix(['e', 'E'])?.parse::<i32>().ok()? {
            power @ 0..=20 => decimal(power.unsigned_abs()),
            power @ -9..=-1 => Some((1, 10_i128.checked_pow(power.unsigned_abs())?)),
            _ => None,
        },
    }
}

impl Val for Quantity {
    fn get_type(&self) -> &Type {
        &QUANTITY
    }

    fn cel_type() -> &'static Type {
        &QUANTITY
    }

    fn equals(&self, other: &dyn Val) -> bool {
        other.downcast_ref::<Quantity>() == Some(self)
    }

    fn clone_as_boxed<'v>(&self) -> Box<dyn Val + 'v> {
        Box::new(*self)
    }

    fn as_any(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

impl StaticVal for Quantity {}

fn refused(function: &str, message: &str) -> ExecutionError {
    ExecutionError::function_error(function, message)
}

fn text<'b>(args: &'b [CowVal<'_, '_>]) -> Result<&'b str, ExecutionError> {
    let first = args.first().and_then(|v| v.downcast_ref::<CelString>());
    first
        .map(|s| s.inner())
        .ok_or(ExecutionError::MissingArgumentOrTarget)
}

fn at(args: &[CowVal<'_, '_>], index: usize) -> Result<Quantity, ExecutionError> {
    let value = args.get(index).and_then(|v| v.downcast_ref::<Quantity>());
    value.copied().ok_or(ExecutionError::MissingArgumentOrTarget)
}

fn whole(q: Quantity) -> Option<i64> {
    if q.0 % NANOS != 0 {
        return None;
    }
    i64::try_from(q.0 / NANOS).ok()
}

/// Registers the type and its functions.
pub(super) fn extension(env: &mut Env) -> Result<(), DeclarationError> {
    let q = || Type::new_unspecified_type(NAME);
    env.add_overload("quantity", "quantity(string)", vec![STRING_TYPE], |args| {
        let parsed = Quantity::parse(text(&args)?);
        parsed
            .map(CowVal::owned)
            .ok_or_else(|| refused("quantity", "not a quantity"))
    })?;
    env.add_overload("isQuantity", "isQuantity(string)", vec![STRING_TYPE], |args| {
        Ok(CowVal::owned(CelBool::from(
            Quantity::parse(text(&args)?).is_some(),
        )))
    })?;
    env.add_member_overload(
        "isGreaterThan",
        "quantity.isGreaterThan(quantity)",
        q(),
        vec![q()],
        |args| Ok(CowVal::owned(CelBool::from(at(&args, 0)? > at(&args, 1)?))),
    )?;
    env.add_member_overload(
        "isLessThan",
        "quantity.isLessThan(quantity)",
        q(),
        vec![q()],
        |args| Ok(CowVal::owned(CelBool::from(at(&args, 0)? < at(&args, 1)?))),
    )?;
    env.add_member_overload(
        "compareTo",
        "quantity.compareTo(quantity)",
        q(),
        vec![q()],
        |args| {
            let order = at(&args, 0)?.cmp(&at(&args, 1)?);
            Ok(CowVal::owned(CelInt::from(order as i64)))
        },
    )?;
    // A function and no method, whatever its documentation says: so a real API server has it.
    env.add_overload("sign", "sign(quantity)", vec![q()], |args| {
        Ok(CowVal::owned(CelInt::from(at(&args, 0)?.0.signum() as i64)))
    })?;
    env.add_member_overload("isInteger", "quantity.isInteger()", q(), vec![], |args| {
        Ok(CowVal::owned(CelBool::from(whole(at(&args, 0)?).is_some())))
    })?;
    env.add_member_overload("asInteger", "quantity.asInteger()", q(), vec![], |args| {
        let number = whole(at(&args, 0)?);
        number
            .map(|n| CowVal::owned(CelInt::from(n)))
            .ok_or_else(|| refused("asInteger", "not a whole number of 64 bits"))
    })?;
    env.add_member_overload("add", "quantity.add(quantity)", q(), vec![q()], |args| {
        let sum = at(&args, 0)?.0.checked_add(at(&args, 1)?.0);
        sum.map(|n| CowVal::owned(Quantity(n)))
            .ok_or_else(|| refused("add", "too large"))
    })?;
    env.add_member_overload("sub", "quantity.sub(quantity)", q(), vec![q()], |args| {
        let difference = at(&args, 0)?.0.checked_sub(at(&args, 1)?.0);
        difference
            .map(|n| CowVal::owned(Quantity(n)))
            .ok_or_else(|| refused("sub", "too large"))
    })
}
