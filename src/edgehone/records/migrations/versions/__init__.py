"""One module per change of the schema; `edgehone.records.migrations` names them in order."""
