"""Reception: C-ECHO and C-STORE; an object is durable and in the ledger before its sender is told 0x0000."""
