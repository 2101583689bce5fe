/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An engine without TCP: plays the engine's side of the rings and joins connections of one application to
 * each other inside the region. Steps by hand (fake_engine_step) or in a thread of its own, asleep when idle.
 */
#ifndef TESTS_FAKE_ENGINE_H
#define TESTS_FAKE_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "host/attach.h"

struct fake_engine;

#define FAKE_ADDRESS	0x0200090au /* 10.9.0.2 in network byte order on a little-endian machine */
#define FAKE_PEERS_DEAD 0x0900090au /* 10.9.0.9: nobody answers */
#define FAKE_SHIFT	16

/* Without a thread; wake descriptors only when `sleepy`. */
struct fake_engine *fake_engine_create(bool sleepy);
void fake_engine_destroy(struct fake_engine *engine);
struct flextoe_memory fake_engine_memory(struct fake_engine *engine);
/* One round; returns the number of descriptors handled. */
unsigned fake_engine_step(struct fake_engine *engine);
void fake_engine_start(struct fake_engine *engine);
void fake_engine_stop(struct fake_engine *engine);
/* The engine's side of a context, for tests that write their own descriptors. */
bool fake_hc_next(struct fake_engine *engine, uint32_t context, struct flextoe_hc *out);
bool fake_notify(struct fake_engine *engine, uint32_t context, const struct flextoe_ntf *ntf);
struct flextoe_context_area *fake_area(struct fake_engine *engine, uint32_t context);
/* Breaks all connections with this error; ends the application's contexts. */
void fake_engine_break(struct fake_engine *engine, int error);
void fake_engine_kill(struct fake_engine *engine);
/* Notifications that did not say what the rules allow (an application's count beyond the buffer): must stay
 * 0. */
unsigned fake_engine_violations(const struct fake_engine *engine);

/* The options it was told last, and the updates so far with FLEXTOE_HC_MORE. */
struct flextoe_hc_options fake_engine_options(struct fake_engine *engine);
unsigned fake_engine_more(struct fake_engine *engine);
/* Nothing an application writes gets anywhere. */
void fake_engine_stall(struct fake_engine *engine, bool on);

#endif
