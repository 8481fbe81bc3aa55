/* Runs a fuzz target over a corpus, one input in hexadecimal a line, for compilers without libFuzzer. */
#include <stdio.h>

#include "fuzz_target.h"

enum { LONGEST_INPUT = 4096 };

static int digit_of(int character)
{
    return character >= 'a' ? character - 'a' + 10 : character - '0';
}

/* Returns false at the end of the file. */
static bool read_line(FILE *file, uint8_t *data, size_t *size)
{
    *size = 0;
    int high = fgetc(file);
    for (; high != '\n' && high != EOF && *size < LONGEST_INPUT; high = fgetc(file)) {
        data[(*size)++] = (uint8_t)(digit_of(high) << 4 | digit_of(fgetc(file)));
    }
    return high == '\n';
}

int main(int count, char **arguments)
{
    static uint8_t data[LONGEST_INPUT];
    size_t size;
    unsigned inputs = 0;
    FILE *file = count == 2 ? fopen(arguments[1], "r") : NULL;
    if (file == NULL) {
        (void)fprintf(stderr, "give a corpus\n");
        return 1;
    }
    for (; read_line(file, data, &size); inputs++) {
        (void)LLVMFuzzerTestOneInput(data, size);
    }
    (void)fclose(file);
    (void)printf("%u inputs\n", inputs);
    return 0;
}
