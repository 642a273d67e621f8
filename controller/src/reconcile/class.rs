//! UnifiedStorageClass: what it can still give, and whether a claim of it could be placed.

use std::sync::Arc;

use kube::{
    Api, ResourceExt as _,
    runtime::{controller::Action, reflector::ObjectRef},
};
use smart_storage_core::decide;

use super::{Change, Context, Error, Planner, Stores, convert, every, live, publish};
use crate::crd::{UnifiedStorageClass, UnifiedStorageClassStatus, class::ClassType};

/// Which classes have to be looked at again.
pub(super) fn concerns(change: Option<&Change>, stores: &Stores) -> Vec<ObjectRef<UnifiedStorageClass>> {
    match change {
        None | Some(Change::Pool(_) | Change::Volume { .. }) => every(&stores.classes),
        Some(_) => Vec::new(),
    }
}

/// Publishes what a class can give.
pub(super) async fn reconcile(
    class: Arc<UnifiedStorageClass>,
    context: Arc<Context>,
) -> Result<Action, Error> {
    let api = Api::<UnifiedStorageClass>::all(context.client.clone());
    let Some(class) = live(&api, class.as_ref()).await? else {
        return Ok(Action::await_change());
    };
    let planner = Planner::new(context.stores.clone(), Arc::clone(&context.registry));
    let seen = convert::class(&class);
    let (decision, available) = decide::class::decide(&seen, &planner.pools());
    let old = class.status.clone().unwrap_or_default();
    let name = class.name_any();
    let volumes = context
        .stores
        .volumes
        .state()
        .iter()
        .filter(|volume| volume.spec.class_name == name)
        .count();
    let by_type = match class.spec.storage_type {
        ClassType::Auto => None,
        _ => seen
            .storage_type
            .and_then(|kind| convert::word(kind.default_backend())),
    };
    let status = UnifiedStorageClassStatus {
        phase: convert::word(decision.phase).unwrap_or_default(),
        resolved_backend: class.spec.backend.or(by_type),
        platform_classes: Vec::new(),
        available_capacity_bytes: available,
        volume_count: u32::try_from(volumes).unwrap_or(u32::MAX),
        conditions: convert::conditions(
            &old.conditions,
            &decision.conditions,
            class.metadata.generation,
            context.now(),
        ),
    };
    publish(&api, &class, class.status.as_ref(), &status).await?;
    Ok(Action::await_change())
}
