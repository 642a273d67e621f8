//! Get and list: selectors, paging, revisions.

use anyhow::{Context as _, Result, ensure};
use http::Method;
use serde_json::{Value, json};

use super::{
    Case, laws,
    place::{Ask, CLASSES, NAMESPACES, Place, claim, items, labelled, names, revision, same, secret, text},
};

pub(super) fn laws() -> Vec<Case> {
    laws![
        "a list is in the order of names and carries the revision that it shows" => ordered,
        "a list of all namespaces holds those of each" => all_namespaces,
        "label selectors choose by equality, sets and presence" => labels,
        "field selectors choose by name, namespace and the kind's own fields" => fields,
        "a selector that cannot be read is 400" => wrong_selectors,
        "pages show one snapshot whatever is written meanwhile" => pages,
        "a first page tells how many remain, unless a selector chooses" => remaining,
        "a continue token that is none is 400" => wrong_tokens,
        "an exact revision shows the past, and not older than shows the newest" => revisions,
        "a match rule without its revision, or an unknown one, is 422" => wrong_rules,
        "a revision from the future is 504 Timeout" => future,
        "lists and objects come as tables with the columns of the definition" => tables,
        "lists and objects come as metadata only" => metadata_only,
    ]
}

pub(super) fn forgetting() -> Vec<Case> {
    let cases = laws![
        "a page of a snapshot that is forgotten is 410 Expired and offers to go on" => expired_page,
    ];
    cases.into_iter().map(Case::alone).collect()
}

async fn fill(at: &Place, count: usize) -> Result<()> {
    for number in 0..count {
        at.post(&at.secrets(), &secret(&format!("s{number}")))
            .await?
            .is(201)?;
    }
    Ok(())
}

async fn ordered(at: &Place) -> Result<()> {
    let empty = at.get(&at.claims()).await?.is(200)?;
    ensure!(
        text(&empty, "/kind") == "UnifiedStorageClaimList"
            && empty.get("items") == Some(&json!([]))
            && revision(&empty)? > 0,
        "{empty}"
    );
    let mut newest = 0;
    for name in ["c", "a", "b"] {
        newest = revision(&at.post(&at.claims(), &claim(name)).await?.is(201)?)?;
    }
    let list = at.get(&at.claims()).await?.is(200)?;
    ensure!(names(&list) == ["a", "b", "c"], "{list}");
    ensure!(revision(&list)? >= newest, "{list}");
    ensure!(text(&list, "/apiVersion") == "storage.billyronks.io/v1", "{list}");
    ensure!(
        list.pointer("/metadata/continue").is_none_or(|token| token == ""),
        "{list}"
    );
    let one = items(&list).first().context("an item")?;
    ensure!(text(one, "/kind") == "UnifiedStorageClaim", "{one}");
    let any = at
        .get(&format!("{}?resourceVersion=0", at.claims()))
        .await?
        .is(200)?;
    ensure!(text(&any, "/kind") == "UnifiedStorageClaimList", "{any}");
    Ok(())
}

async fn all_namespaces(at: &Place) -> Result<()> {
    at.post(&at.claims(), &claim("a")).await?.is(201)?;
    let all = at
        .get("/apis/storage.billyronks.io/v1/unifiedstorageclaims")
        .await?
        .is(200)?;
    let here = items(&all)
        .iter()
        .filter(|item| text(item, "/metadata/namespace") == at.name)
        .count();
    ensure!(here == 1, "{all}");
    let by_field = format!(
        "/apis/storage.billyronks.io/v1/unifiedstorageclaims?fieldSelector=metadata.namespace%3D{}",
        at.name
    );
    let found = at.get(&by_field).await?.is(200)?;
    ensure!(names(&found) == ["a"], "{found}");
    Ok(())
}

/// What a selector finds, as `a,b`.
async fn found(at: &Place, parameter: &str, selector: &str) -> Result<String> {
    let encoded: String = selector
        .bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect();
    let path = format!("{}?{parameter}={encoded}", at.secrets());
    let list = at.get(&path).await?.is(200)?;
    Ok(names(&list).join(","))
}

async fn labels(at: &Place) -> Result<()> {
    for (name, labels) in [
        ("a", json!({"x": "1"})),
        ("b", json!({"x": "2", "y": "1"})),
        ("c", json!({})),
        ("d", json!({"x": "", "example.io/z": "v"})),
    ] {
        at.post(&at.secrets(), &labelled(name, &labels)).await?.is(201)?;
    }
    for (selector, wanted) in [
        ("x=1", "a"),
        ("x==1", "a"),
        ("x!=1", "b,c,d"),
        ("x=", "d"),
        ("x in (1, 2)", "a,b"),
        ("x in (1,2),!y", "a"),
        ("x notin (1,2)", "c,d"),
        ("x", "a,b,d"),
        ("!x", "c"),
        ("x>1", "b"),
        ("x<2", "a"),
        ("example.io/z=v", "d"),
        ("x,y", "b"),
        ("nothing", ""),
        ("", "a,b,c,d"),
    ] {
        let seen = found(at, "labelSelector", selector).await?;
        ensure!(seen == wanted, "{selector:?} finds {seen:?} and not {wanted:?}");
    }
    Ok(())
}

async fn fields(at: &Place) -> Result<()> {
    at.post(&at.secrets(), &secret("a")).await?.is(201)?;
    let mut other = secret("b");
    other["type"] = json!("conformance/other");
    at.post(&at.secrets(), &other).await?.is(201)?;
    let here = format!("metadata.namespace={}", at.name);
    for (selector, wanted) in [
        ("metadata.name=a", "a"),
        ("metadata.name==b", "b"),
        ("metadata.name!=a", "b"),
        (here.as_str(), "a,b"),
        ("metadata.namespace=other", ""),
        ("type=conformance/other", "b"),
        ("type!=conformance/other,metadata.name=a", "a"),
    ] {
        let seen = found(at, "fieldSelector", selector).await?;
        ensure!(seen == wanted, "{selector:?} finds {seen:?} and not {wanted:?}");
    }
    Ok(())
}

async fn wrong_selectors(at: &Place) -> Result<()> {
    for query in [
        "labelSelector=a%20b",
        "labelSelector=x%20in%201",
        "labelSelector=x%3D%3D%3D1",
        "labelSelector=x%3Db%2Fd",
        "fieldSelector=spec.capacity%3D1Gi",
        "fieldSelector=metadata.name",
    ] {
        at.get(&format!("{}?{query}", at.claims()))
            .await?
            .refused(400, "BadRequest")?;
    }
    Ok(())
}

async fn pages(at: &Place) -> Result<()> {
    fill(at, 7).await?;
    let (mut seen, mut token, mut shown) = (Vec::new(), String::new(), None);
    for page in 0.. {
        let path = match token.as_str() {
            "" => format!("{}?limit=3", at.secrets()),
            token => format!("{}?limit=3&continue={token}", at.secrets()),
        };
        let list = at.get(&path).await?.is(200)?;
        let revision = revision(&list)?;
        ensure!(
            *shown.get_or_insert(revision) == revision,
            "page {page} shows another revision"
        );
        seen.extend(names(&list).into_iter().map(str::to_owned));
        text(&list, "/metadata/continue").clone_into(&mut token);
        if token.is_empty() {
            break;
        }
        if page == 0 {
            at.delete(&at.secret("s5")).await?.is(200)?;
            at.post(&at.secrets(), &secret("s4a")).await?.is(201)?;
            at.merge(&at.secret("s6"), &json!({"metadata": {"labels": {"new": "yes"}}}))
                .await?
                .is(200)?;
        }
        ensure!(page < 5, "it does not end");
    }
    ensure!(seen == ["s0", "s1", "s2", "s3", "s4", "s5", "s6"], "{seen:?}");
    let now = at.get(&at.secrets()).await?.is(200)?;
    ensure!(
        names(&now) == ["s0", "s1", "s2", "s3", "s4", "s4a", "s6"],
        "{now}"
    );
    Ok(())
}

async fn remaining(at: &Place) -> Result<()> {
    fill(at, 5).await?;
    let page = at.get(&format!("{}?limit=2", at.secrets())).await?.is(200)?;
    same("remaining", &page["metadata"]["remainingItemCount"], &json!(3))?;
    let token = text(&page, "/metadata/continue").to_owned();
    let page = at
        .get(&format!("{}?limit=2&continue={token}", at.secrets()))
        .await?
        .is(200)?;
    same("remaining", &page["metadata"]["remainingItemCount"], &json!(1))?;
    let chosen = format!("{}?limit=2&labelSelector=!x", at.secrets());
    let page = at.get(&chosen).await?.is(200)?;
    ensure!(
        page.pointer("/metadata/remainingItemCount").is_none()
            && !text(&page, "/metadata/continue").is_empty(),
        "{page}"
    );
    let all = at.get(&format!("{}?limit=5", at.secrets())).await?.is(200)?;
    ensure!(
        all.pointer("/metadata/remainingItemCount").is_none() && text(&all, "/metadata/continue").is_empty(),
        "{all}"
    );
    Ok(())
}

async fn expired_page(at: &Place) -> Result<()> {
    let Some(forget) = &at.forget else {
        // Nothing else can be said of a server that cannot be made to forget.
        return Ok(());
    };
    fill(at, 4).await?;
    let page = at.get(&format!("{}?limit=2", at.secrets())).await?.is(200)?;
    let token = text(&page, "/metadata/continue").to_owned();
    at.post(&at.secrets(), &secret("s9")).await?.is(201)?;
    forget().await?;
    let next = format!("{}?limit=2&continue={token}", at.secrets());
    let status = at.get(&next).await?.refused(410, "Expired")?;
    let token = text(&status, "/metadata/continue").to_owned();
    ensure!(!token.is_empty(), "{status}");
    let rest = at
        .get(&format!("{}?continue={token}", at.secrets()))
        .await?
        .is(200)?;
    ensure!(names(&rest) == ["s2", "s3", "s9"], "{rest}");
    let exact = format!(
        "{}?resourceVersionMatch=Exact&resourceVersion={}",
        at.secrets(),
        revision(&page)?
    );
    at.get(&exact).await?.refused(410, "Expired")?;
    Ok(())
}

async fn wrong_tokens(at: &Place) -> Result<()> {
    fill(at, 3).await?;
    let page = at.get(&format!("{}?limit=2", at.secrets())).await?.is(200)?;
    let token = text(&page, "/metadata/continue").to_owned();
    for query in [
        "continue=abc".to_owned(),
        "continue=%7B%7D".to_owned(),
        format!("continue={token}&resourceVersion=1"),
        "limit=many".to_owned(),
    ] {
        at.get(&format!("{}?{query}", at.secrets()))
            .await?
            .refused(400, "BadRequest")
            .map_err(|e| e.context(query))?;
    }
    let rule = format!("continue={token}&resourceVersionMatch=Exact");
    at.get(&format!("{}?{rule}", at.secrets()))
        .await?
        .refused(422, "Invalid")?;
    Ok(())
}

async fn revisions(at: &Place) -> Result<()> {
    fill(at, 2).await?;
    let then = revision(&at.get(&at.secrets()).await?.is(200)?)?;
    at.delete(&at.secret("s0")).await?.is(200)?;
    at.post(&at.secrets(), &secret("s2")).await?.is(201)?;
    let with = |rule: &str| {
        format!(
            "{}?resourceVersion={then}&resourceVersionMatch={rule}",
            at.secrets()
        )
    };
    let past = at.get(&with("Exact")).await?.is(200)?;
    ensure!(names(&past) == ["s0", "s1"] && revision(&past)? == then, "{past}");
    let page = at.get(&format!("{}&limit=1", with("Exact"))).await?.is(200)?;
    ensure!(names(&page) == ["s0"], "{page}");
    let newer = at.get(&with("NotOlderThan")).await?.is(200)?;
    ensure!(revision(&newer)? >= then, "{newer}");
    let newest = at.get(&at.secrets()).await?.is(200)?;
    ensure!(names(&newest) == ["s1", "s2"], "{newest}");
    Ok(())
}

async fn wrong_rules(at: &Place) -> Result<()> {
    for query in [
        "resourceVersionMatch=Exact",
        "resourceVersionMatch=NotOlderThan",
        "resourceVersionMatch=Exact&resourceVersion=0",
        "resourceVersionMatch=Sometimes&resourceVersion=5",
    ] {
        at.get(&format!("{}?{query}", at.claims()))
            .await?
            .refused(422, "Invalid")
            .map_err(|e| e.context(query))?;
    }
    Ok(())
}

async fn future(at: &Place) -> Result<()> {
    at.post(&at.claims(), &claim("a")).await?.is(201)?;
    for path in [at.claims(), at.claim("a")] {
        let status = at
            .get(&format!("{path}?resourceVersion=9000000000"))
            .await?
            .refused(504, "Timeout")?;
        ensure!(
            text(&status, "/message").contains("Too large resource version"),
            "{status}"
        );
        ensure!(
            text(&status, "/details/causes/0/reason") == "ResourceVersionTooLarge",
            "{status}"
        );
    }
    Ok(())
}

async fn tables(at: &Place) -> Result<()> {
    const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    at.post(&at.claims(), &claim("a")).await?.is(201)?;
    for path in [at.claims(), at.claim("a")] {
        let ask = Ask::new(Method::GET, &path).accept(TABLE);
        let table = at.ask(ask).await?.is(200)?;
        ensure!(
            text(&table, "/kind") == "Table" && text(&table, "/apiVersion") == "meta.k8s.io/v1",
            "{table}"
        );
        let columns: Vec<&str> = table["columnDefinitions"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|column| text(column, "/name"))
            .collect();
        ensure!(
            columns == ["Name", "Type", "Class", "Capacity", "Volume", "Phase", "Age"],
            "{columns:?}"
        );
        let row = table.pointer("/rows/0").context("a row")?;
        let cells = row["cells"].as_array().context("cells")?;
        ensure!(
            cells.get(..4) == Some(&[json!("a"), json!("file"), json!("no-such-class"), json!("1Gi")][..]),
            "{row}"
        );
        let age = cells.last().and_then(Value::as_str).unwrap_or_default();
        ensure!(age.ends_with('s'), "{row}");
        ensure!(text(row, "/object/kind") == "PartialObjectMetadata", "{row}");
    }
    let whole = format!("{}?includeObject=Object", at.claims());
    let table = at
        .ask(Ask::new(Method::GET, whole).accept(TABLE))
        .await?
        .is(200)?;
    ensure!(text(&table, "/rows/0/object/spec/capacity") == "1Gi", "{table}");
    let none = format!("{}?includeObject=None", at.claims());
    let table = at.ask(Ask::new(Method::GET, none).accept(TABLE)).await?.is(200)?;
    ensure!(
        table.pointer("/rows/0/object").is_none_or(Value::is_null),
        "{table}"
    );
    let classes = at
        .ask(Ask::new(Method::GET, CLASSES).accept(TABLE))
        .await?
        .is(200)?;
    ensure!(text(&classes, "/kind") == "Table", "{classes}");
    let namespaces = at
        .ask(Ask::new(Method::GET, format!("{NAMESPACES}/{}", at.name)).accept(TABLE))
        .await?
        .is(200)?;
    ensure!(
        namespaces.pointer("/rows/0/cells/1") == Some(&json!("Active")),
        "{namespaces}"
    );
    Ok(())
}

async fn metadata_only(at: &Place) -> Result<()> {
    at.post(&at.claims(), &claim("a")).await?.is(201)?;
    let one = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io,application/json";
    let object = at
        .ask(Ask::new(Method::GET, at.claim("a")).accept(one))
        .await?
        .is(200)?;
    ensure!(
        text(&object, "/kind") == "PartialObjectMetadata"
            && text(&object, "/metadata/name") == "a"
            && object.get("spec").is_none(),
        "{object}"
    );
    let many = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io,application/json";
    let list = at
        .ask(Ask::new(Method::GET, at.claims()).accept(many))
        .await?
        .is(200)?;
    ensure!(
        text(&list, "/kind") == "PartialObjectMetadataList" && names(&list) == ["a"] && revision(&list)? > 0,
        "{list}"
    );
    Ok(())
}
