"""What the engine keeps: functions, activities, state and logs, each in a store of its own."""
