/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A page of an application's region that the kernel cannot provide (its hugepages were given back by the
 * application, its memory limit is reached, the memory is broken) is a SIGBUS in whoever touches it, which is
 * the data path. The guard turns it into the end of that application: the region's mapping in this process
 * is replaced by private memory, the access goes on there, and the control plane puts the application out.
 */
#ifndef CONTROL_REGION_GUARD_H
#define CONTROL_REGION_GUARD_H

#include <stdbool.h>
#include <stdint.h>

#define REGION_GUARD_NONE (-1)

/* Guards [base, base + size), a mapping of this process. Returns its number, or REGION_GUARD_NONE when there
 * is no place: then a SIGBUS in it ends the process. Installs the handler if it is not there. [control] */
int region_guard_add(uint8_t *base, uint64_t size);
/* Before the mapping goes. REGION_GUARD_NONE is allowed. [control] */
void region_guard_remove(int guard);
/* The region has lost its memory: what was written to it since is nowhere. [any thread] */
bool region_guard_broken(int guard);
/* Faults caught so far, to be compared: nothing is broken while it stays the same. [any thread] */
uint32_t region_guard_faults(void);

#endif
