"""Schedules a pool of a device's slots, which run batches, and of workers, which decode images and make answers.

`DeviceScheduler` has the interface of `Scheduler`, and answers `next_chore` of a free worker. Batches have the sizes
that warm-up measured (`ladder`). `DeviceQueue` bounds when each job with waiting mandatory views is answered: all
decodes on the workers, then full batches on the device, then all answers on the workers. `BatchBuilder` takes the
mandatory views of all decoded jobs in the queue's order, then optional views in rounds (`OpenViews`), and grows the
batch up to the knee while no queued job is made late. Pure, as all of scheduling.
"""
