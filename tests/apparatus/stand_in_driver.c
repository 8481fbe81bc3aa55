/* A driver without a GPU: libcuda.so.1 of the tests of the Jetson's library.
 *
 * It reads the device code as the driver would, finds kernels by name in its symbols, and writes what is launched to
 * standard output instead of running it: name, blocks, threads, shared memory, and the bytes of each argument, taken at
 * the addresses that the caller gave and of the sizes that the device code says. What it cannot check is whether a real
 * driver takes the code.
 *
 * STAND_IN_CUDA: its version (12060); STAND_IN_GPU: compute capability without the dot (87); STAND_IN_COUNT: of GPUs.
 */
#include <elf.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SUCCESS = 0, INVALID_VALUE = 1, NO_DEVICE = 100, INVALID_CONTEXT = 201, NO_BINARY = 209, NOT_FOUND = 500 };
enum { PARAMETER = 0x1704 }; /* of .nv.info: index, ordinal and offset, size in the upper 14 bits */

struct kernel {
  const char *code, *name;
};

static int setting(const char *name, int otherwise) {
  const char *value = getenv(name);
  return value ? atoi(value) : otherwise;
}

static int has_context = 0;

int cuInit(unsigned flags) { return (void)flags, SUCCESS; }
int cuDriverGetVersion(int *version) { return *version = setting("STAND_IN_CUDA", 12060), SUCCESS; }
int cuDeviceGetCount(int *count) { return *count = setting("STAND_IN_COUNT", 1), SUCCESS; }
int cuDeviceGet(int *device, int ordinal) { return *device = ordinal, SUCCESS; }
int cuCtxGetDevice(int *device) { return *device = 0, has_context ? SUCCESS : INVALID_CONTEXT; }
int cuDevicePrimaryCtxRetain(void **context, int device) { return *context = &has_context, device; }
int cuCtxSetCurrent(void *context) { return has_context = context != NULL, SUCCESS; }

int cuDeviceGetAttribute(int *value, int attribute, int device) {
  const int gpu = setting("STAND_IN_GPU", 87);
  *value = attribute == 75 ? gpu / 10 : attribute == 76 ? gpu % 10 : attribute == 97 ? 166912 : -1;
  return *value < 0 ? INVALID_VALUE : device;
}

int cuGetErrorString(int error, const char **text) {
  *text = error == INVALID_VALUE ? "invalid argument" : error == NO_DEVICE ? "no CUDA-capable device is detected" : "?";
  return SUCCESS;
}

static const Elf64_Shdr *section(const char *code, int number) {
  const Elf64_Ehdr *header = (const Elf64_Ehdr *)code;
  return (const Elf64_Shdr *)(code + header->e_shoff) + number;
}

static const Elf64_Shdr *named(const char *code, const char *prefix, const char *name) {
  const Elf64_Ehdr *header = (const Elf64_Ehdr *)code;
  const char *names = code + section(code, header->e_shstrndx)->sh_offset;
  const size_t length = strlen(prefix);
  for (int i = 0; i < header->e_shnum; i++) {
    const char *found = names + section(code, i)->sh_name;
    if (!strncmp(found, prefix, length) && !strcmp(found + length, name)) return section(code, i);
  }
  return NULL;
}

int cuLibraryLoadData(void **library, const void *code, void *a, void **b, unsigned c, void *d, void **e, unsigned f) {
  const Elf64_Ehdr *header = code;
  (void)a, (void)b, (void)c, (void)d, (void)e, (void)f;
  if (memcmp(header->e_ident, ELFMAG, SELFMAG) || header->e_machine != 190 /* EM_CUDA */) return INVALID_VALUE;
  /* Where the GPU's number stands in the flags differs between the formats of CUDA 12 and 13. */
  const unsigned gpu = setting("STAND_IN_GPU", 87);
  if ((header->e_flags & 0xff) != gpu && (header->e_flags >> 8 & 0xff) != gpu) return NO_BINARY;
  return *library = (void *)code, SUCCESS;
}

int cuLibraryGetKernel(void **kernel, void *library, const char *name) {
  if (!named(library, ".text.", name)) return NOT_FOUND;
  struct kernel *found = malloc(sizeof *found);
  *found = (struct kernel){library, strdup(name)};
  return *kernel = found, SUCCESS;
}

int cuKernelGetAttribute(int *value, int attribute, void *kernel, int device) {
  (void)kernel;
  *value = setting("STAND_IN_GPU", 87);
  return attribute == 5 /* PTX_VERSION */ ? device : INVALID_VALUE;
}

int cuKernelSetAttribute(int attribute, int value, void *kernel, int device) {
  (void)kernel;
  return attribute == 8 /* MAX_DYNAMIC_SHARED_SIZE_BYTES */ && value <= 166912 ? device : INVALID_VALUE;
}

int cuLaunchKernel(void *kernel, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                   unsigned shared, void *stream, void **arguments, void **extra) {
  const struct kernel *launched = kernel;
  const Elf64_Shdr *info = named(launched->code, ".nv.info.", launched->name);
  if (!info || extra) return INVALID_VALUE;
  printf("launch %s %u %u %u %u %u %u %u %zu", launched->name, gx, gy, gz, bx, by, bz, shared, (size_t)stream);
  unsigned sizes[32], count = 0;
  const char *at = launched->code + info->sh_offset, *end = at + info->sh_size;
  while (at + 4 <= end) { /* each entry: a format, an attribute, and 16 bits, which are a size in format 4 */
    uint16_t head, size;
    uint32_t numbers[3];
    memcpy(&head, at, 2), memcpy(&size, at + 2, 2);
    if (head == PARAMETER) {
      memcpy(numbers, at + 4, sizeof numbers);
      sizes[numbers[1] & 0xffff] = numbers[2] >> 18;
      count++;
    }
    at += 4 + ((head & 0xff) == 4 ? size : 0);
  }
  for (unsigned i = 0; i < count; i++) {
    printf(" ");
    for (unsigned j = 0; j < sizes[i]; j++) printf("%02x", ((unsigned char *)arguments[i])[j]);
  }
  return puts(""), SUCCESS;
}
