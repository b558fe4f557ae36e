//! `WINDOW w AS (…)`: each use of a window's name becomes the window.
//!
//! DataFusion knows names of windows in a SELECT list only, and forgets that a window builds on another. Invariant: after
//! this no window has a name, and one that builds on another has its PARTITION BY, and its ORDER BY where it has one; what
//! PostgreSQL refuses of that is refused.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Ident, NamedWindowDefinition, NamedWindowExpr, OrderBy, Select, VisitMut, WindowSpec, WindowType,
};

use super::catalog::fold;
use super::own_level;
use super::parser::position_of;
use crate::error::{ErrorCode, KalamError, Result};

/// Writes the windows of a block out in it, its definitions included.
pub fn in_select(select: &mut Select) -> Result<()> {
    if select.named_window.is_empty() {
        return Ok(());
    }
    let windows = resolved(&std::mem::take(&mut select.named_window))?;
    write_out(select, &windows)
}

/// Writes the windows of a block out in the ORDER BY of its query.
pub fn in_order(definitions: &[NamedWindowDefinition], order_by: &mut OrderBy) -> Result<()> {
    if definitions.is_empty() { Ok(()) } else { write_out(order_by, &resolved(definitions)?) }
}

/// Fails if a call is over a window that has no definition.
pub fn check(over: Option<&WindowType>) -> Result<()> {
    match over {
        Some(WindowType::NamedWindow(name) | WindowType::WindowSpec(WindowSpec { window_name: Some(name), .. })) => {
            Err(unknown(name))
        }
        _ => Ok(()),
    }
}

type Windows = Vec<(String, WindowSpec)>;

/// The definitions by their names; one may build on those before it.
fn resolved(definitions: &[NamedWindowDefinition]) -> Result<Windows> {
    let mut windows = Windows::with_capacity(definitions.len());
    for NamedWindowDefinition(name, window) in definitions {
        let key = fold(name);
        if windows.iter().any(|(known, _)| *known == key) {
            return Err(refused(name, format!("window '{key}' is defined twice")));
        }
        let spec = match window {
            NamedWindowExpr::NamedWindow(other) => find(other, &windows)?.clone(),
            NamedWindowExpr::WindowSpec(spec) => built(spec.clone(), &windows)?,
        };
        windows.push((key, spec));
    }
    Ok(windows)
}

fn write_out(part: &mut impl VisitMut, windows: &Windows) -> Result<()> {
    let flow = own_level::change_expressions(part, |expr| {
        let Expr::Function(function) = expr else { return ControlFlow::Continue(()) };
        let spec = match &function.over {
            Some(WindowType::NamedWindow(name)) => find(name, windows).cloned(),
            Some(WindowType::WindowSpec(spec)) if spec.window_name.is_some() => built(spec.clone(), windows),
            _ => return ControlFlow::Continue(()),
        };
        match spec {
            Ok(spec) => {
                function.over = Some(WindowType::WindowSpec(spec));
                ControlFlow::Continue(())
            }
            Err(error) => ControlFlow::Break(error),
        }
    });
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

fn find<'a>(name: &Ident, windows: &'a Windows) -> Result<&'a WindowSpec> {
    let key = fold(name);
    windows.iter().find(|(known, _)| *known == key).map(|(_, spec)| spec).ok_or_else(|| unknown(name))
}

/// A window with what it takes from the one that it builds on.
fn built(mut spec: WindowSpec, windows: &Windows) -> Result<WindowSpec> {
    let Some(name) = spec.window_name.take() else { return Ok(spec) };
    let base = find(&name, windows)?;
    let key = fold(&name);
    if !spec.partition_by.is_empty() {
        return Err(refused(&name, format!("a window that builds on '{key}' has its PARTITION BY from there")));
    }
    if !spec.order_by.is_empty() && !base.order_by.is_empty() {
        return Err(refused(&name, format!("a window that builds on '{key}' has its ORDER BY from there")));
    }
    if base.window_frame.is_some() {
        return Err(refused(&name, format!("window '{key}' has a frame, so no other can build on it"))
            .with_hint(format!("OVER {key}, without parentheses, is that window.")));
    }
    spec.partition_by.clone_from(&base.partition_by);
    if spec.order_by.is_empty() {
        spec.order_by.clone_from(&base.order_by);
    }
    Ok(spec)
}

fn unknown(name: &Ident) -> KalamError {
    refused(name, format!("window '{}' does not exist", fold(name)))
}

fn refused(name: &Ident, message: String) -> KalamError {
    KalamError::new(ErrorCode::InvalidStatement, message).at(position_of(name))
}
