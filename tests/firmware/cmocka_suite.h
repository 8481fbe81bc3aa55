/* cmocka and the headers that it needs before it. */
#ifndef CMOCKA_SUITE_H
#define CMOCKA_SUITE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#endif
