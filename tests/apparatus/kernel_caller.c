/* Calls the C functions of a kernel library as a script on standard input says, where no Python is.
 *
 *   kernel_caller libpi0_kernels.so < script
 *
 * A line is `name argument …`: `i5` an int64_t or pointer, `f0.5` a float, `g0a1b…` a struct pi0_gemm as bytes. After each
 * one the answer is written: `name 0`, or `name 35 why`. The calling convention of aarch64 and x86_64 puts integers and
 * floats into registers and on the stack independently of each other, so that one type of function serves all.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int64_t I;
typedef int (*Function)(I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, I, float, float);

int main(int count, char **arguments) {
  void *library = dlopen(arguments[count - 1], RTLD_NOW);
  if (!library) return fprintf(stderr, "%s\n", dlerror()), 1;
  int (*version)(void) = (int (*)(void))dlsym(library, "pi0_library_version");
  int (*ready)(I *, I *) = (int (*)(I *, I *))dlsym(library, "pi0_device_ready");
  const char *(*text)(int) = (const char *(*)(int))dlsym(library, "pi0_error_string");
  I needed = 0, found = 0;
  int error = ready(&needed, &found);
  printf("version %d\nready %d %s\n", version(), error, text(error));
  static char line[1 << 16];
  while (fgets(line, sizeof line, stdin)) {
    I i[20] = {0};
    float f[2] = {0};
    unsigned char gemm[512];
    int integers = 0, floats = 0;
    char *name = strtok(line, " \n");
    for (char *word; (word = strtok(NULL, " \n"));) {
      if (word[0] == 'f') f[floats++] = strtof(word + 1, NULL);
      if (word[0] == 'i') i[integers++] = strtoll(word + 1, NULL, 10);
      if (word[0] != 'g') continue;
      for (size_t at = 0; at < strlen(word + 1) / 2; at++) {
        unsigned byte;
        sscanf(word + 1 + 2 * at, "%2x", &byte);
        gemm[at] = byte;
      }
      i[integers++] = (I)gemm;
    }
    Function function = (Function)dlsym(library, name);
    if (!function) return fprintf(stderr, "no %s\n", name), 1;
    error = function(i[0], i[1], i[2], i[3], i[4], i[5], i[6], i[7], i[8], i[9], i[10], i[11], i[12], i[13], i[14], i[15],
                     i[16], i[17], i[18], i[19], f[0], f[1]);
    printf("%s %d %s\n", name, error, text(error));
  }
  return 0;
}
