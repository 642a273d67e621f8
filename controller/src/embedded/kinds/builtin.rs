//! The built-in kinds that our controllers and kubectl need.

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::super::json::set;
use super::{Kind, Shape};
use crate::embedded::table::{Column, Source};

/// Fields of `events.k8s.io/v1` and where `v1` keeps them; both are one set of objects.
const EVENT_NAMES: &[(&str, &str)] = &[
    ("regarding", "involvedObject"),
    ("note", "message"),
    ("reportingController", "reportingComponent"),
    ("deprecatedSource", "source"),
    ("deprecatedFirstTimestamp", "firstTimestamp"),
    ("deprecatedLastTimestamp", "lastTimestamp"),
    ("deprecatedCount", "count"),
];

fn typed<T: DeserializeOwned + Serialize>(value: Value) -> Result<Value, serde_json::Error> {
    serde_json::to_value(serde_json::from_value::<T>(value)?)
}

fn kind(group: &str, name: &str, plural: &str, resource: &str, shape: Shape) -> Kind {
    Kind {
        group: group.to_owned(),
        version: "v1".to_owned(),
        kind: name.to_owned(),
        list_kind: format!("{name}List"),
        plural: plural.to_owned(),
        singular: name.to_lowercase(),
        short_names: Vec::new(),
        categories: Vec::new(),
        namespaced: true,
        status: false,
        resource: resource.into(),
        shape,
        openapi: json!({"type": "object"}),
        columns: vec![Column::age()],
        selectable: Vec::new(),
        read_only: false,
        generations: false,
        unconditional_update: true,
        create_on_update: false,
        renamed: &[],
    }
}

fn column(name: &str, kind: &str, source: Source) -> Column {
    Column {
        name: name.to_owned(),
        kind: kind.to_owned(),
        source,
        ..Column::age()
    }
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

fn schema(description: &str, fields: &[(&str, &str, &str)]) -> Value {
    let mut properties = json!({
        "apiVersion": {"type": "string", "description": "The version of this representation."},
        "kind": {"type": "string", "description": "What this object is."},
        "metadata": {"type": "object", "description": "Standard object's metadata."},
    });
    for (name, kind, description) in fields {
        set(
            &mut properties,
            &[name],
            json!({"type": kind, "description": description}),
        );
        if *kind == "object" {
            set(
                &mut properties,
                &[name, "x-kubernetes-preserve-unknown-fields"],
                json!(true),
            );
        }
    }
    json!({"type": "object", "description": description, "properties": properties})
}

/// Every built-in kind.
pub fn built_in() -> Vec<Kind> {
    vec![
        namespace(),
        secret(),
        config_map(),
        event(),
        new_event(),
        lease(),
        crd(),
    ]
}

fn namespace() -> Kind {
    Kind {
        namespaced: false,
        status: true,
        short_names: names(&["ns"]),
        selectable: names(&["status.phase"]),
        columns: vec![
            column("Status", "string", Source::path(".status.phase")),
            Column::age(),
        ],
        openapi: schema(
            "Namespace provides a scope for names.",
            &[
                ("spec", "object", "The behaviour of the namespace."),
                (
                    "status",
                    "object",
                    "The current status: phase Active or Terminating.",
                ),
            ],
        ),
        ..kind(
            "",
            "Namespace",
            "namespaces",
            "namespaces",
            Shape::Typed(typed::<Namespace>),
        )
    }
}

fn secret() -> Kind {
    Kind {
        selectable: names(&["type"]),
        columns: vec![
            column("Type", "string", Source::path(".type")),
            column("Data", "integer", Source::count(".data")),
            Column::age(),
        ],
        openapi: schema(
            "Secret holds secret data of a certain type.",
            &[
                ("data", "object", "The secret data, each value in base64."),
                (
                    "stringData",
                    "object",
                    "Secret data as plain strings; written into data, never read back.",
                ),
                ("type", "string", "Tells programs how to handle the data."),
                ("immutable", "boolean", "If true, the data cannot be updated."),
            ],
        ),
        ..kind("", "Secret", "secrets", "secrets", Shape::Typed(typed::<Secret>))
    }
}

fn config_map() -> Kind {
    Kind {
        short_names: names(&["cm"]),
        columns: vec![column("Data", "integer", Source::count(".data")), Column::age()],
        openapi: schema(
            "ConfigMap holds configuration data.",
            &[
                ("data", "object", "The configuration data."),
                ("binaryData", "object", "Binary data, each value in base64."),
                ("immutable", "boolean", "If true, the data cannot be updated."),
            ],
        ),
        ..kind(
            "",
            "ConfigMap",
            "configmaps",
            "configmaps",
            Shape::Typed(typed::<ConfigMap>),
        )
    }
}

const EVENT_FIELDS: [&str; 10] = [
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "type",
    "source",
];

fn event_columns(prefix: &str, message: &str) -> Vec<Column> {
    vec![
        column("Last Seen", "string", Source::LastSeen),
        column("Type", "string", Source::path(".type")),
        column("Reason", "string", Source::path(".reason")),
        column("Object", "string", Source::reference(prefix)),
        column("Message", "string", Source::path(message)),
    ]
}

fn event() -> Kind {
    Kind {
        short_names: names(&["ev"]),
        create_on_update: true,
        selectable: names(&EVENT_FIELDS),
        columns: event_columns(".involvedObject", ".message"),
        openapi: schema(
            "Event is a report of an event somewhere in the system.",
            &[
                ("involvedObject", "object", "The object that this event is about."),
                (
                    "reason",
                    "string",
                    "A short, machine-understandable string that gives the reason.",
                ),
                ("message", "string", "A human-readable description."),
                ("type", "string", "Normal or Warning."),
                ("count", "integer", "The number of times this event has occurred."),
            ],
        ),
        ..kind("", "Event", "events", "events", Shape::Typed(typed::<Event>))
    }
}

fn new_event() -> Kind {
    let regarding = EVENT_FIELDS
        .iter()
        .map(|f| f.replace("involvedObject", "regarding"))
        .collect();
    Kind {
        short_names: names(&["ev"]),
        create_on_update: true,
        selectable: regarding,
        columns: event_columns(".regarding", ".note"),
        renamed: EVENT_NAMES,
        openapi: schema(
            "Event is a report of an event somewhere in the system.",
            &[
                ("regarding", "object", "The object that this event is about."),
                ("reason", "string", "Why the action was taken."),
                ("note", "string", "A human-readable description."),
                ("action", "string", "What action was taken or failed."),
                ("type", "string", "Normal or Warning."),
            ],
        ),
        ..kind(
            "events.k8s.io",
            "Event",
            "events",
            "events",
            Shape::Typed(typed::<k8s_openapi::api::events::v1::Event>),
        )
    }
}

fn lease() -> Kind {
    Kind {
        unconditional_update: false,
        create_on_update: true,
        columns: vec![
            column("Holder", "string", Source::path(".spec.holderIdentity")),
            Column::age(),
        ],
        openapi: schema(
            "Lease defines a lease concept.",
            &[("spec", "object", "Holder, duration and times of the lease.")],
        ),
        ..kind(
            "coordination.k8s.io",
            "Lease",
            "leases",
            "leases.coordination.k8s.io",
            Shape::Typed(typed::<Lease>),
        )
    }
}

fn crd() -> Kind {
    Kind {
        namespaced: false,
        read_only: true,
        short_names: names(&["crd", "crds"]),
        columns: vec![column(
            "Created At",
            "string",
            Source::path(".metadata.creationTimestamp"),
        )],
        openapi: schema(
            "CustomResourceDefinition represents a resource that is exposed on the API server.",
            &[
                ("spec", "object", "How the resources appear."),
                ("status", "object", "The actual state of the definition."),
            ],
        ),
        ..kind(
            "apiextensions.k8s.io",
            "CustomResourceDefinition",
            "customresourcedefinitions",
            "customresourcedefinitions.apiextensions.k8s.io",
            Shape::Typed(typed::<CustomResourceDefinition>),
        )
    }
}
