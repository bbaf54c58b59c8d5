"""Tables → findings: methods, what was chosen, how they compare, what may be said. No torch, no matplotlib, no colours."""
