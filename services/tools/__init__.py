"""The tools that a turn may call: calculator, dates and calendar, units, document search."""
