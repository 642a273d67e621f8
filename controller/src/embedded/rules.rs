//! `x-kubernetes-validations`: the CEL rules of a schema.
//!
//! A rule that names `oldSelf` judges a transition: it is asked only where the old object has a counterpart
//! of the value. Values that an update leaves as they were are not judged again. A rule that cannot be
//! evaluated refuses the object. Beyond CEL's standard library the environment has cel-go's strings, lists
//! and math extensions and Kubernetes' `quantity`; it has no durations and timestamps.

mod quantity;

use std::sync::{Arc, OnceLock};

use cel::objects::{Key, OptionalValue};
use cel::{Context, Env, Program};
use serde_json::Value;

use super::schema::{Schema, Type};
use super::status::FieldError;

/// One compiled rule.
pub struct Rule {
    source: String,
    program: Program,
    message: Option<String>,
    message_expression: Option<Program>,
    reason: &'static str,
    field_path: String,
    transition: bool,
    optional_old_self: bool,
}

impl std::fmt::Debug for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rule")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl Rule {
    /// Compiles an entry of `x-kubernetes-validations`; the error names the rule.
    pub fn parse(value: &Value) -> Result<Self, String> {
        let text = |name: &str| value.get(name).and_then(Value::as_str);
        let source = text("rule").ok_or("a validation without a rule")?.to_owned();
        let compile = |source: &str| {
            environment()
                .compile(source)
                .map_err(|e| format!("rule {source:?}: {e}"))
        };
        let program = compile(&source)?;
        let transition = program.references().has_variable("oldSelf");
        Ok(Self {
            message: text("message").map(|m| m.trim().to_owned()),
            message_expression: text("messageExpression").map(compile).transpose()?,
            reason: match text("reason") {
                Some("FieldValueForbidden") => "FieldValueForbidden",
                Some("FieldValueRequired") => "FieldValueRequired",
                Some("FieldValueDuplicate") => "FieldValueDuplicate",
                _ => "FieldValueInvalid",
            },
            field_path: text("fieldPath").unwrap_or_default().to_owned(),
            optional_old_self: value
                .get("optionalOldSelf")
                .and_then(Value::as_bool)
                .unwrap_or(false),
            source,
            program,
            transition,
        })
    }

    fn judge(&self, schema: &Schema, value: &Value, old: Option<&Value>, path: &str) -> Option<FieldError> {
        if self.transition && old.is_none() && !self.optional_old_self {
            return None;
        }
        let mut context = Context::with_env(Arc::clone(environment()));
        context.add_variable_from_value("self", to_cel(schema, value));
        if self.transition {
            let old_self = old.map(|old| to_cel(schema, old));
            let bound = match (self.optional_old_self, old_self) {
                (false, Some(old)) => old,
                (false, None) => return None,
                (true, Some(old)) => cel::Value::Opaque(Arc::new(OptionalValue::of(old))),
                (true, None) => cel::Value::Opaque(Arc::new(OptionalValue::none())),
            };
            context.add_variable_from_value("oldSelf", bound);
        }
        match self.program.execute(&context) {
            Ok(cel::Value::Bool(true)) => None,
            Ok(cel::Value::Bool(false)) => Some(self.refusal(&context, value, path)),
            Ok(_) => Some(self.unanswered(value, path, "it is not true or false")),
            Err(error) => Some(self.unanswered(value, path, &error.to_string())),
        }
    }

    fn unanswered(&self, value: &Value, path: &str, why: &str) -> FieldError {
        FieldError::invalid(
            path,
            value,
            &format!("rule evaluation error: {}: {why}", self.source),
        )
    }

    fn refusal(&self, context: &Context<'_, '_>, value: &Value, path: &str) -> FieldError {
        let evaluated =
            self.message_expression
                .as_ref()
                .and_then(|expression| match expression.execute(context) {
                    Ok(cel::Value::String(text)) => Some(text.to_string()),
                    _ => None,
                });
        let message = evaluated
            .or_else(|| self.message.clone())
            .unwrap_or_else(|| format!("failed rule: {}", self.source));
        let at = format!("{path}{}", self.field_path);
        let at = at.trim_start_matches('.');
        match self.reason {
            "FieldValueForbidden" => FieldError::forbidden(at, &message),
            "FieldValueRequired" => FieldError::required(at, &message),
            "FieldValueDuplicate" => FieldError::duplicate(at, value),
            _ => FieldError::invalid(at, value, &message),
        }
    }
}

/// Asks every rule of the tree.
pub fn check_rules(
    schema: &Schema,
    value: &Value,
    old: Option<&Value>,
    path: &str,
    errors: &mut Vec<FieldError>,
) {
    if !schema.rules_below || value.is_null() || old == Some(value) {
        return;
    }
    errors.extend(
        schema
            .rules
            .iter()
            .filter_map(|rule| rule.judge(schema, value, old, path)),
    );
    match value {
        Value::Object(map) => {
            for (name, child) in map {
                let Some(member) = schema.member(name) else {
                    continue;
                };
                let at = if schema.properties.contains_key(name) {
                    super::schema::member_path(path, name)
                } else {
                    format!("{path}[{name}]")
                };
                check_rules(member, child, old.and_then(|o| o.get(name)), &at, errors);
            }
        }
        Value::Array(list) => {
            let Some(items) = &schema.items else { return };
            for (index, item) in list.iter().enumerate() {
                let before = schema.counterpart(item, old);
                check_rules(items, item, before, &format!("{path}[{index}]"), errors);
            }
        }
        _ => {}
    }
}

type Extension = fn(&mut Env) -> Result<(), cel::DeclarationError>;

fn environment() -> &'static Arc<Env> {
    static ENVIRONMENT: OnceLock<Arc<Env>> = OnceLock::new();
    ENVIRONMENT.get_or_init(|| {
        let mut env = Env::stdlib();
        let extensions: [Extension; 4] = [
            cel::extensions::strings,
            cel::extensions::lists,
            cel::extensions::math,
            quantity::extension,
        ];
        for extension in extensions {
            if let Err(error) = env.add_extension(extension) {
                tracing::error!(error = %error, "a CEL extension cannot be registered");
            }
        }
        Arc::new(env)
    })
}

/// A JSON value as CEL sees it: numbers by the schema's type, field names escaped as Kubernetes does.
fn to_cel(schema: &Schema, value: &Value) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(b) => cel::Value::Bool(*b),
        Value::Number(n) => match (n.as_i64(), schema.kind) {
            (Some(integer), kind) if kind != Some(Type::Number) => cel::Value::Int(integer),
            _ => cel::Value::Float(n.as_f64().unwrap_or(f64::NAN)),
        },
        Value::String(s) => cel::Value::String(Arc::new(s.clone())),
        Value::Array(list) => {
            let untyped = Schema::default();
            let items = schema.items.as_deref().unwrap_or(&untyped);
            cel::Value::from(list.iter().map(|item| to_cel(items, item)).collect::<Vec<_>>())
        }
        Value::Object(map) => {
            let untyped = Schema::default();
            let entries = map.iter().map(|(name, child)| {
                let member = schema.member(name).unwrap_or(&untyped);
                let name = if schema.properties.contains_key(name) {
                    escaped(name)
                } else {
                    name.clone()
                };
                (Key::from(name), to_cel(member, child))
            });
            cel::Value::from(entries.collect::<std::collections::HashMap<Key, cel::Value>>())
        }
    }
}

/// Field names that are no CEL identifiers, as Kubernetes escapes them.
fn escaped(name: &str) -> String {
    const RESERVED: [&str; 21] = [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ];
    if RESERVED.contains(&name) {
        return format!("__{name}__");
    }
    name.replace("__", "__underscores__")
        .replace('.', "__dot__")
        .replace('-', "__dash__")
        .replace('/', "__slash__")
}
