//! The scalar functions there are.
//!
//! A chosen list instead of everything DataFusion has: what is not named here, the linker drops from the module that
//! every visitor downloads.

use std::sync::Arc;

use datafusion::logical_expr::ScalarUDF;
use datafusion_functions as df;

/// Every scalar function, by DataFusion's names and aliases.
pub fn scalar_functions() -> Vec<Arc<ScalarUDF>> {
    let mut functions = Vec::new();
    functions.extend(df::core::functions());
    functions.extend(df::datetime::functions());
    functions.extend(df::encoding::functions());
    functions.extend(df::math::functions());
    functions.extend(df::regex::functions());
    functions.extend(df::string::functions());
    functions.extend(df::unicode::functions());
    functions.push(Arc::new(df::math::signum().as_ref().clone().with_aliases(["sign"])));
    functions
}
