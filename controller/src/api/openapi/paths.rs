//! The paths of the OpenAPI document.

use serde_json::{Map, Value, json};

const INVALID: &str = "Readable and wrong; every wrong field, or every reason, is named.";
const FOREIGN_TOKEN: &str = "Also for a `continue` that this list never gave, or gave too long ago.";

/// What every guarded call can answer beside its own.
const COMMON: &[u16] = &[401, 406, 422, 429, 503];
/// What a call with a body can answer beside that.
const WITH_BODY: &[u16] = &[400, 408, 413, 415];

/// One call of the API.
struct Operation {
    id: &'static str,
    tag: &'static str,
    summary: &'static str,
    parameters: Vec<Value>,
    body: Option<(&'static str, &'static [&'static str])>,
    answers: Vec<(u16, &'static str, &'static str)>,
    problems: &'static [u16],
    /// What it refuses with 422 although every field by itself is right.
    refuses: &'static str,
    open: bool,
}

impl Operation {
    fn new(id: &'static str, tag: &'static str, summary: &'static str) -> Self {
        Self {
            id,
            tag,
            summary,
            parameters: Vec::new(),
            body: None,
            answers: Vec::new(),
            problems: &[],
            refuses: "",
            open: false,
        }
    }

    fn parameters(mut self, parameters: impl IntoIterator<Item = Value>) -> Self {
        self.parameters.extend(parameters);
        self
    }

    const fn body(mut self, schema: &'static str, types: &'static [&'static str]) -> Self {
        self.body = Some((schema, types));
        self
    }

    fn answers(mut self, status: u16, schema: &'static str, description: &'static str) -> Self {
        self.answers.push((status, schema, description));
        self
    }

    const fn problems(mut self, problems: &'static [u16]) -> Self {
        self.problems = problems;
        self
    }

    const fn refuses(mut self, what: &'static str) -> Self {
        self.refuses = what;
        self
    }

    const fn open(mut self) -> Self {
        self.open = true;
        self
    }

    fn json(self) -> Value {
        let mut responses = Map::new();
        for (status, schema, description) in &self.answers {
            responses.insert(status.to_string(), answer(*status, schema, description));
        }
        let common: &[u16] = if self.open { &[406, 422, 503] } else { COMMON };
        let with_body: &[u16] = if self.body.is_some() { WITH_BODY } else { &[] };
        for status in common.iter().chain(with_body).chain(self.problems) {
            let reference = json!({"$ref": format!("#/components/responses/problem-{status}")});
            responses.insert(status.to_string(), reference);
        }
        if !self.refuses.is_empty() {
            let description = format!("{INVALID} {}", self.refuses);
            responses.insert("422".to_owned(), problem(422, &description));
        }
        let mut operation = json!({
            "operationId": self.id,
            "tags": [self.tag],
            "summary": self.summary,
            "description": self.summary,
            "responses": responses,
        });
        if !self.parameters.is_empty() {
            set(&mut operation, "parameters", Value::Array(self.parameters));
        }
        if let Some((schema, types)) = self.body {
            let content: Map<_, _> = types
                .iter()
                .map(|type_| ((*type_).to_owned(), json!({"schema": reference(schema)})))
                .collect();
            set(
                &mut operation,
                "requestBody",
                json!({"required": true, "content": content}),
            );
        }
        if self.open {
            set(&mut operation, "security", json!([]));
        }
        operation
    }
}

fn set(object: &mut Value, key: &str, value: Value) {
    if let Some(object) = object.as_object_mut() {
        object.insert(key.to_owned(), value);
    }
}

fn reference(schema: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{schema}")})
}

fn answer(status: u16, schema: &str, description: &str) -> Value {
    let schema = if schema.is_empty() {
        json!({"type": "object"})
    } else {
        reference(schema)
    };
    let mut headers = json!({"x-request-id": {"$ref": "#/components/headers/x-request-id"}});
    if status == 201 {
        let location = json!({"description": "Path of the new storage.", "schema": {"type": "string"}, "required": true});
        set(&mut headers, "Location", location);
    }
    json!({
        "description": description,
        "headers": headers,
        "content": {"application/json": {"schema": schema}},
    })
}

/// The problems that calls share.
pub(super) fn responses() -> Map<String, Value> {
    let texts = [
        (400, "The body is not JSON."),
        (401, "No token, or a wrong one."),
        (404, "There is no such thing."),
        (406, "The caller accepts no JSON."),
        (408, "The body took too long."),
        (
            409,
            "The name is taken, or the thing is not in the state that this needs.",
        ),
        (413, "The body is larger than 1 MiB."),
        (415, "The body is not said to be JSON."),
        (422, INVALID),
        (429, "Too many requests at once."),
        (503, "Something that this needs is away; the reasons say what."),
    ];
    texts
        .into_iter()
        .map(|(status, description)| (format!("problem-{status}"), problem(status, description)))
        .collect()
}

fn problem(status: u16, description: &str) -> Value {
    let mut headers = json!({"x-request-id": {"$ref": "#/components/headers/x-request-id"}});
    if matches!(status, 429 | 503) {
        let header = json!({
            "description": "Seconds after which it is worth trying again.",
            "schema": {"type": "integer", "minimum": 1},
        });
        set(&mut headers, "Retry-After", header);
    }
    if status == 401 {
        let header = json!({"description": "How to be let in.", "schema": {"type": "string"}});
        set(&mut headers, "WWW-Authenticate", header);
    }
    json!({
        "description": description,
        "headers": headers,
        "content": {"application/problem+json": {"schema": reference("Problem")}},
    })
}

const FOLLOWS_CREATION: &[&str] = &[
    "getStorage",
    "expandStorage",
    "rotateCredentials",
    "deleteStorage",
];

/// Calls whose path parameter is found in an answer.
fn links(parameter: &str, expression: &str, operations: &[&str]) -> Value {
    let links: Map<_, _> = operations
        .iter()
        .map(|operation| {
            let link = json!({"operationId": operation, "parameters": {parameter: expression}});
            ((*operation).to_owned(), link)
        })
        .collect();
    Value::Object(links)
}

fn query(name: &str, description: &str, schema: &Value) -> Value {
    json!({"name": name, "in": "query", "required": false, "description": description, "schema": schema})
}

fn in_path(name: &str, description: &str) -> Value {
    json!({
        "name": name, "in": "path", "required": true, "description": description,
        "schema": {"type": "string", "minLength": 1, "maxLength": 253, "pattern": "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"},
    })
}

fn page() -> [Value; 2] {
    [
        query(
            "limit",
            "The most items of one answer.",
            &json!({"type": "integer", "minimum": 1, "maximum": 500}),
        ),
        query(
            "continue",
            "As the last answer had it.",
            &json!({"type": "string"}),
        ),
    ]
}

const JSON: &[&str] = &["application/json"];
const JSON_PATCH: &[&str] = &["application/json", "application/merge-patch+json"];
const LABEL: &str = r"^([a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?(\.[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?){0,2}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?=([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?$";

pub(super) fn paths() -> Value {
    let mut paths = storage();
    paths.extend(fleet());
    paths.extend(server());
    Value::Object(paths)
}

fn path(name: &str, operations: impl IntoIterator<Item = (&'static str, Operation)>) -> (String, Value) {
    let operations: Map<_, _> = operations
        .into_iter()
        .map(|(method, operation)| (method.to_owned(), operation.json()))
        .collect();
    (name.to_owned(), Value::Object(operations))
}

fn create() -> Operation {
    Operation::new(
        "createStorage",
        "storage",
        "Ask for storage. The same request again answers the same object; never refused for lack of capacity.",
    )
    .parameters([
        query("dry_run", "Only say whether it would be placed now, and where.", &json!({"type": "boolean"})),
        query(
            "wait",
            "Answer when it is Ready, Failed or Lost, or when this time is up, at most a minute: 30s.",
            &json!({"type": "string", "pattern": "^[0-9]{1,6}(ms|s|m)$"}),
        ),
    ])
    .body("CreateStorage", JSON)
    .answers(201, "Storage", "Asked for.")
    .refuses("Also for a namespace that does not exist.")
    .problems(&[409])
}

fn list() -> Operation {
    Operation::new("listStorage", "storage", "Storage that was asked for, in parts.")
        .parameters(page())
        .parameters([
            query(
                "namespace",
                "Only this namespace.",
                &json!({"type": "string", "maxLength": 63, "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"}),
            ),
            query(
                "type",
                "Only this type.",
                &json!({"type": "string", "enum": ["block", "file", "object"]}),
            ),
            query(
                "phase",
                "Only this phase.",
                &json!({"type": "string", "enum": [
                    "Pending", "Placing", "Provisioning", "Ready", "Expanding", "Deleting", "Failed", "Lost",
                ]}),
            ),
            query(
                "label",
                "Only with this label, key=value; may be given more than once.",
                &json!({"type": "array", "items": {"type": "string", "pattern": LABEL}}),
            ),
        ])
        .answers(200, "StorageList", "A part of the list.")
        .refuses(FOREIGN_TOKEN)
}

fn storage() -> Map<String, Value> {
    let id = || [in_path("id", "The storage's id.")];
    let mut create = create().json();
    if let Some(responses) = create.get_mut("responses") {
        let schema = json!({"anyOf": [reference("Storage"), reference("DryRunAnswer")]});
        let mut repeat = answer(
            200,
            "",
            "The same request had been made before; or the answer of a dry run.",
        );
        if let Some(place) = repeat.pointer_mut("/content/application~1json/schema") {
            *place = schema;
        }
        set(responses, "200", repeat);
    }
    if let Some(created) = create.pointer_mut("/responses/201") {
        set(
            created,
            "links",
            links("id", "$response.body#/id", FOLLOWS_CREATION),
        );
    }
    let mut paths = Map::new();
    let (name, mut collection) = path("/v1/storage", [("get", list())]);
    set(&mut collection, "post", create);
    paths.insert(name, collection);
    let one = path(
        "/v1/storage/{id}",
        [
            (
                "get",
                Operation::new(
                    "getStorage",
                    "storage",
                    "One: its phase, why it is where it is, how to reach the data.",
                )
                .parameters(id())
                .answers(200, "Storage", "The storage.")
                .problems(&[404]),
            ),
            (
                "patch",
                Operation::new("expandStorage", "storage", "Grow; storage never shrinks.")
                    .parameters(id())
                    .body("ExpandStorage", JSON_PATCH)
                    .answers(200, "Storage", "The storage with its new size.")
                    .refuses("Also for a size smaller than the present one.")
                    .problems(&[404, 409]),
            ),
            (
                "delete",
                Operation::new(
                    "deleteStorage",
                    "storage",
                    "Delete; what happens to the data is the reclaim policy's.",
                )
                .parameters(id())
                .answers(202, "Storage", "It goes.")
                .problems(&[404, 409]),
            ),
        ],
    );
    let credentials = path(
        "/v1/storage/{id}/credentials",
        [(
            "post",
            Operation::new(
                "rotateCredentials",
                "storage",
                "Make new credentials and revoke the old ones; they are answered this once.",
            )
            .parameters(id())
            .answers(200, "Credentials", "The new credentials.")
            .problems(&[404, 409]),
        )],
    );
    paths.extend([one, credentials]);
    paths
}

fn fleet() -> Map<String, Value> {
    let mut paths = fleet_paths();
    for (list, operations) in [
        ("/v1/nodes", &["getNode", "classifyNode"] as &[&str]),
        ("/v1/pools", &["getPool"]),
    ] {
        if let Some(answer) = paths
            .get_mut(list)
            .and_then(|p| p.pointer_mut("/get/responses/200"))
        {
            set(
                answer,
                "links",
                links("name", "$response.body#/items/0/name", operations),
            );
        }
    }
    paths
}

fn fleet_paths() -> Map<String, Value> {
    let operation = |id, summary| Operation::new(id, "fleet", summary);
    let node = || [in_path("name", "The node's name.")];
    [
        path(
            "/v1/nodes",
            [(
                "get",
                operation("listNodes", "Nodes with their drives, in parts.")
                    .parameters(page())
                    .answers(200, "NodeList", "A part of the list.")
                    .refuses(FOREIGN_TOKEN),
            )],
        ),
        path(
            "/v1/nodes/{name}",
            [(
                "get",
                operation("getNode", "A node: its drives, what they are, what holds them.")
                    .parameters(node())
                    .answers(200, "Node", "The node.")
                    .problems(&[404]),
            )],
        ),
        path(
            "/v1/nodes/{name}/classify",
            [(
                "post",
                operation("classifyNode", "Let the node's agent probe every drive now.")
                    .parameters(node())
                    .answers(200, "Node", "The node as it was just found.")
                    .problems(&[404]),
            )],
        ),
        path(
            "/v1/pools",
            [(
                "get",
                operation("listPools", "Pools with their members, in parts.")
                    .parameters(page())
                    .answers(200, "PoolList", "A part of the list.")
                    .refuses(FOREIGN_TOKEN),
            )],
        ),
        path(
            "/v1/pools/{name}",
            [(
                "get",
                operation("getPool", "A pool with its members.")
                    .parameters([in_path("name", "The pool's name.")])
                    .answers(200, "Pool", "The pool.")
                    .problems(&[404]),
            )],
        ),
        path(
            "/v1/capacity",
            [(
                "get",
                operation("getCapacity", "Totals by node, tier, type and pool.").answers(
                    200,
                    "Capacity",
                    "The totals.",
                ),
            )],
        ),
        path(
            "/v1/classes",
            [(
                "get",
                operation(
                    "listClasses",
                    "Classes with the capacity that each can still give, in parts.",
                )
                .parameters(page())
                .answers(200, "ClassList", "A part of the list.")
                .refuses(FOREIGN_TOKEN),
            )],
        ),
    ]
    .into_iter()
    .collect()
}

fn server() -> Map<String, Value> {
    [
        path(
            "/health",
            [(
                "get",
                Operation::new(
                    "getHealth",
                    "server",
                    "Whether the server is ready, as /readyz says it.",
                )
                .answers(200, "Health", "Ready.")
                .open(),
            )],
        ),
        path(
            "/openapi.json",
            [(
                "get",
                Operation::new("getOpenapi", "server", "This document.")
                    .answers(200, "", "The document.")
                    .open(),
            )],
        ),
    ]
    .into_iter()
    .collect()
}
