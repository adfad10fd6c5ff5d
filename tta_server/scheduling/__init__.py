"""Decides which jobs are admitted, what a free slot runs next, and when a job is answered.

Pure: no clock, no I/O, no threads; time is an argument, in seconds. `Scheduler` is the interface, which the engine
calls under one lock. A `Job` is one image; its `Progress` is the only record of which views are dispatched, running,
merged, lost or failed. `Pool` holds what the modules share: `Admission` bounds the live jobs; `MandatoryQueue` orders
the jobs whose mandatory work waits and simulates on the pool's slots when each of them is answered; `Estimates` and
`CostModel` price that work; `DueTimers` and `Watchdog` know when a job or a running step has to be checked again. For a
free slot, `Dispatcher` picks the next step: mandatory work first, then optional views, which `BatchBuilder` groups into
batches that delay neither a queued job nor an expected arrival. `Outlook` knows whether more views can end in time, and
`stopping` has the rules that end a job early.
"""
