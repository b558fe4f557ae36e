//! SQL type names in expressions (`CAST`, `::`) mean the same as in table definitions.

use std::sync::Arc;

use arrow::datatypes::FieldRef;
use datafusion::common::{DataFusionError, Result as DfResult};
use datafusion::logical_expr::planner::TypePlanner;
use datafusion::sql::sqlparser::ast;

use crate::types::KalamDataType;

/// Plans types through [`KalamDataType`], so that an unknown name gives the same error everywhere.
#[derive(Debug)]
pub struct KalamTypePlanner;

impl TypePlanner for KalamTypePlanner {
    fn plan_type_field(&self, sql_type: &ast::DataType) -> DfResult<Option<FieldRef>> {
        // Types that only expressions have (INTERVAL, arrays) stay with DataFusion.
        if matches!(sql_type, ast::DataType::Interval { .. } | ast::DataType::Array(_)) {
            return Ok(None);
        }
        let data_type =
            KalamDataType::from_sql(sql_type).map_err(|error| DataFusionError::External(Box::new(error)))?;
        Ok(Some(Arc::new(data_type.plan_field("", true))))
    }
}
