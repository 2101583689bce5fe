/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Runs a fuzz target without libFuzzer: on the files named, or, without any, for FUZZ_SECONDS (5) on inputs
 * made from a seed (FUZZ_SEED), which is printed so that a failure can be had again.
 */

#include "core/platform.h"
#include "fuzz.h"

static uint64_t state;

static uint32_t rnd(void)
{
	state = state * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)(state >> 33);
}

static int file_run(const char *path)
{
	static uint8_t bytes[1 << 16];
	FILE *f = fopen(path, "rb");
	size_t n;

	if (!f)
		return 1;
	n = fread(bytes, 1, sizeof(bytes), f);
	fclose(f);
	LLVMFuzzerTestOneInput(bytes, n);
	return 0;
}

int main(int argc, char **argv)
{
	const char *text = getenv("FUZZ_SECONDS"), *seed_text = getenv("FUZZ_SEED");
	uint64_t seconds = text ? strtoull(text, NULL, 0) : 5;
	uint64_t seed = seed_text ? strtoull(seed_text, NULL, 0) : 1, end = clock_us() + seconds * 1000000u;
	uint8_t bytes[1024];
	unsigned runs = 0;

	for (int i = 1; i < argc; i++)
		if (file_run(argv[i]) != 0) {
			fprintf(stderr, "%s cannot be read\n", argv[i]);
			return 1;
		}
	if (argc > 1)
		return 0;
	setvbuf(stdout, NULL, _IONBF, 0);
	do {
		uint32_t len;

		state = seed + runs;
		for (unsigned i = 0; i < 4; i++)
			rnd();
		len = rnd() % sizeof(bytes);
		for (uint32_t i = 0; i < len; i++)
			bytes[i] = (uint8_t)rnd();
		if (getenv("FUZZ_VERBOSE"))
			printf("FUZZ_SEED=%llu\n", (unsigned long long)(seed + runs));
		LLVMFuzzerTestOneInput(bytes, len);
		runs++;
	} while (clock_us() < end);
	printf("%u inputs from seed %llu\n", runs, (unsigned long long)seed);
	return 0;
}
