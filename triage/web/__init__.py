"""The worklist's outlet for people and programs: page, REST, events, metrics, health."""
