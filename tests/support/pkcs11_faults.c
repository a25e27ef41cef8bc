// SPDX-License-Identifier: Apache-2.0
/*
 * A PKCS#11 module that hands everything on to the module FAULT_MODULE names, except where a rule says
 * otherwise. The file FAULT_RULES is read at each call, so rules change while a program runs; each call is
 * noted in the file FAULT_LOG, a login without its PIN.
 *
 * A rule is a line: a function, and what happens to its calls.
 *
 *   C_Sign rv=0x32            it is not handed on, and returns this
 *   C_Sign after=0x32         it is handed on, and returns this
 *   C_Sign sleep=1500         it takes so many milliseconds longer
 *   C_Sign length=63          the signature is cut, or zeros follow it
 *   C_Sign flip=1             its last bit is turned
 *   C_Initialize locking=no   a module that cannot lock: 0xA unless it gets no arguments
 *   C_Initialize null=only    a module that takes no arguments: 0x7 for all but NULL
 *   C_OpenSession most=2      only so many sessions
 *   C_OpenSession writable=1  no sessions but those to write
 *   C_GetTokenInfo set=0x40000, clear=0x4       flags of the device
 *   C_Login flags=0x40000     flags it has from then on
 *   C_GetSlotList none=1      no device at all
 *   C_GetMechanismList only=0x1044
 *   C_FindObjectsInit hide=2  nothing of this class is found
 *   C_GetAttributeValue value181=none|raw|bits|HEX    the attribute 0x181, absent or with other octets
 *
 * and, with each of them, skip=N for the first calls that are as usual, times=N for how many are not.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef unsigned long ulong_t;
typedef unsigned char octet;

struct list {
  octet version[2];
  void *functions[68];
};
struct attribute {
  ulong_t type;
  void *value;
  ulong_t length;
};
struct token_info {
  octet text[96];
  ulong_t flags;
};

enum {
  INITIALIZE = 0,
  FINALIZE = 1,
  GET_SLOT_LIST = 4,
  GET_TOKEN_INFO = 6,
  GET_MECHANISM_LIST = 7,
  OPEN_SESSION = 12,
  CLOSE_SESSION = 13,
  LOGIN = 18,
  GET_ATTRIBUTE_VALUE = 24,
  FIND_OBJECTS_INIT = 26,
  SIGN_INIT = 42,
  SIGN = 43,
  GENERATE_KEY_PAIR = 59
};
static const ulong_t UNAVAILABLE = ~0UL;

/* The functions at these places, each with its parameters: in C23 () takes none. */
typedef ulong_t INITIALIZE_function(void *);
typedef ulong_t FINALIZE_function(void *);
typedef ulong_t GET_SLOT_LIST_function(octet, ulong_t *, ulong_t *);
typedef ulong_t GET_TOKEN_INFO_function(ulong_t, struct token_info *);
typedef ulong_t GET_MECHANISM_LIST_function(ulong_t, ulong_t *, ulong_t *);
typedef ulong_t OPEN_SESSION_function(ulong_t, ulong_t, void *, void *, ulong_t *);
typedef ulong_t CLOSE_SESSION_function(ulong_t);
typedef ulong_t LOGIN_function(ulong_t, ulong_t, octet *, ulong_t);
typedef ulong_t GET_ATTRIBUTE_VALUE_function(ulong_t, ulong_t, struct attribute *, ulong_t);
typedef ulong_t FIND_OBJECTS_INIT_function(ulong_t, struct attribute *, ulong_t);
typedef ulong_t SIGN_INIT_function(ulong_t, void *, ulong_t);
typedef ulong_t SIGN_function(ulong_t, octet *, ulong_t, octet *, ulong_t *);
typedef ulong_t GENERATE_KEY_PAIR_function(ulong_t, void *, void *, ulong_t, void *, ulong_t, void *, void *);

static struct list *real, ours;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long open_sessions;
static ulong_t flags_since_login;

/* With the lock, for tcc has no atomic builtins. */
static void count_sessions(long change) {
  pthread_mutex_lock(&lock);
  open_sessions += change;
  pthread_mutex_unlock(&lock);
}

/* How often each rule has met a call. */
static struct {
  char line[256];
  long calls;
} counters[256];

struct rule {
  char text[256];
};

static void note(const char *format, ...) {
  const char *path = getenv("FAULT_LOG");
  char line[256];
  va_list arguments;
  int file, length;
  if (!path || (file = open(path, O_WRONLY | O_APPEND | O_CREAT, 0600)) < 0) return;
  va_start(arguments, format);
  length = vsnprintf(line, sizeof line, format, arguments);
  va_end(arguments);
  if (write(file, line, (size_t)length) < 0) abort();
  close(file);
}

/* The value of "name=" in a rule; 0 if it has none. */
static int text_of(const struct rule *rule, const char *name, char *value, size_t size) {
  char key[32];
  const char *found;
  size_t n = 0;
  snprintf(key, sizeof key, " %s=", name);
  if (!(found = strstr(rule->text, key))) return 0;
  for (found += strlen(key); *found && *found != ' ' && n + 1 < size; found++) value[n++] = *found;
  value[n] = 0;
  return 1;
}

static int number_of(const struct rule *rule, const char *name, long *value) {
  char text[256];
  if (!text_of(rule, name, text, sizeof text)) return 0;
  *value = strtol(text, NULL, 0);
  return 1;
}

/* Whether this call is one of those that skip= and times= leave to a rule. */
static int is_due(const struct rule *rule, const char *edition) {
  char key[256];
  long skip = 0, times = -1, call;
  int i = 0, counted;
  counted = number_of(rule, "skip", &skip);
  if (!(number_of(rule, "times", &times) | counted)) return 1;
  snprintf(key, sizeof key, "%.40s %.200s", edition, rule->text);
  while (i < 255 && counters[i].line[0] && strcmp(counters[i].line, key)) i++;
  memcpy(counters[i].line, key, sizeof key);
  call = counters[i].calls++;
  return call >= skip && (times < 0 || call < skip + times);
}

/* The next rule for a function, from the one given on; 0 if there is none. The first line of the file says
   which edition of the rules it is, so that a rule written again counts anew. */
static int find(const char *function, const char *has, struct rule *rule) {
  const char *path = getenv("FAULT_RULES");
  char edition[64] = "";
  FILE *file = path ? fopen(path, "r") : NULL;
  size_t length = strlen(function);
  char text[256];
  int found = 0;
  if (!file) return 0;
  pthread_mutex_lock(&lock);
  while (!found && fgets(rule->text, sizeof rule->text, file)) {
    rule->text[strcspn(rule->text, "\n")] = 0;
    if (rule->text[0] == '#') {
      snprintf(edition, sizeof edition, "%.60s", rule->text);
      continue;
    }
    found = !strncmp(rule->text, function, length) && rule->text[length] == ' ' &&
            text_of(rule, has, text, sizeof text) && is_due(rule, edition);
  }
  pthread_mutex_unlock(&lock);
  fclose(file);
  return found;
}

static int number_for(const char *function, const char *name, long *value) {
  struct rule rule;
  return find(function, name, &rule) && number_of(&rule, name, value);
}

/* Sleep and rv=, for any function; 1 if it is not to be handed on. */
static int before(const char *function, ulong_t *rv) {
  long value;
  if (number_for(function, "sleep", &value)) {
    struct timespec time = {value / 1000, value % 1000 * 1000000};
    nanosleep(&time, NULL);
  }
  if (!number_for(function, "rv", &value)) return 0;
  *rv = (ulong_t)value;
  return 1;
}

static ulong_t after(const char *function, ulong_t rv) {
  long value;
  return number_for(function, "after", &value) ? (ulong_t)value : rv;
}

#define REAL(place, ...) (((place##_function *)real->functions[place])(__VA_ARGS__))
#define WRAP(name, place, parameters, ...)             \
  static ulong_t name parameters {                     \
    ulong_t rv;                                        \
    if (!before(#name, &rv)) rv = REAL(place, __VA_ARGS__); \
    rv = after(#name, rv);                             \
    note(#name " rv=0x%lx\n", rv);                     \
    return rv;                                         \
  }

WRAP(C_Finalize, FINALIZE, (void *reserved), reserved)
WRAP(C_SignInit, SIGN_INIT, (ulong_t session, void *mechanism, ulong_t key), session, mechanism, key)
WRAP(C_GenerateKeyPair, GENERATE_KEY_PAIR,
     (ulong_t session, void *mechanism, void *a, ulong_t m, void *b, ulong_t n, void *x, void *y), session, mechanism,
     a, m, b, n, x, y)

static ulong_t C_Initialize(void *arguments) {
  ulong_t rv;
  long unused;
  ulong_t flags = arguments ? ((ulong_t *)arguments)[4] : 0;
  if (!before("C_Initialize", &rv)) {
    if (arguments && number_for("C_Initialize", "locking", &unused))
      rv = 0xA;
    else if (arguments && number_for("C_Initialize", "null", &unused))
      rv = 0x7;
    else
      rv = REAL(INITIALIZE, arguments);
  }
  if (!rv) open_sessions = 0, flags_since_login = 0;
  note("C_Initialize flags=0x%lx rv=0x%lx\n", flags, rv);
  return rv;
}

static ulong_t C_GetSlotList(octet present, ulong_t *slots, ulong_t *count) {
  ulong_t rv;
  long unused;
  if (before("C_GetSlotList", &rv)) return rv;
  rv = REAL(GET_SLOT_LIST, present, slots, count);
  if (!rv && number_for("C_GetSlotList", "none", &unused)) *count = 0;
  return rv;
}

static ulong_t C_GetTokenInfo(ulong_t slot, struct token_info *info) {
  ulong_t rv;
  long value;
  if (before("C_GetTokenInfo", &rv)) return rv;
  rv = REAL(GET_TOKEN_INFO, slot, info);
  if (!rv && number_for("C_GetTokenInfo", "clear", &value)) info->flags &= ~(ulong_t)value;
  if (!rv && number_for("C_GetTokenInfo", "set", &value)) info->flags |= (ulong_t)value;
  if (!rv) info->flags |= flags_since_login;
  return rv;
}

static ulong_t C_GetMechanismList(ulong_t slot, ulong_t *mechanisms, ulong_t *count) {
  ulong_t rv;
  long value;
  if (before("C_GetMechanismList", &rv)) return rv;
  if (!number_for("C_GetMechanismList", "only", &value)) return REAL(GET_MECHANISM_LIST, slot, mechanisms, count);
  if (mechanisms) mechanisms[0] = (ulong_t)value;
  *count = 1;
  return 0;
}

static ulong_t C_OpenSession(ulong_t slot, ulong_t flags, void *application, void *notify, ulong_t *session) {
  ulong_t rv;
  long value;
  if (!before("C_OpenSession", &rv)) {
    if (number_for("C_OpenSession", "most", &value) && open_sessions >= value)
      rv = 0xB1;
    else if (!(flags & 2) && number_for("C_OpenSession", "writable", &value))
      rv = 0x7;
    else
      rv = REAL(OPEN_SESSION, slot, flags, application, notify, session);
  }
  if (!rv) count_sessions(1);
  note("C_OpenSession flags=0x%lx rv=0x%lx open=%ld\n", flags, rv, open_sessions);
  return rv;
}

static ulong_t C_CloseSession(ulong_t session) {
  ulong_t rv;
  if (!before("C_CloseSession", &rv)) rv = REAL(CLOSE_SESSION, session);
  if (!rv) count_sessions(-1);
  note("C_CloseSession rv=0x%lx open=%ld\n", rv, open_sessions);
  return rv;
}

static ulong_t C_Login(ulong_t session, ulong_t user, octet *pin, ulong_t length) {
  ulong_t rv;
  long value;
  if (!before("C_Login", &rv)) rv = REAL(LOGIN, session, user, pin, length);
  rv = after("C_Login", rv);
  if (number_for("C_Login", "flags", &value)) flags_since_login = (ulong_t)value;
  note("C_Login user=%lu pin=%d rv=0x%lx\n", user, pin != NULL, rv);
  return rv;
}

/* Other octets in place of an attribute's: those of a rule, or a point in another form. */
static ulong_t replaced(ulong_t session, ulong_t object, struct attribute *attribute, const char *value) {
  octet octets[256];
  ulong_t length = 0;
  if (!strcmp(value, "none")) {
    attribute->length = UNAVAILABLE;
    return 0x12;
  }
  if (!strcmp(value, "raw") || !strcmp(value, "bits")) {
    struct attribute point = {attribute->type, octets + 1, sizeof octets - 1};
    ulong_t rv = REAL(GET_ATTRIBUTE_VALUE, session, object, &point, 1UL);
    if (rv) {
      attribute->length = UNAVAILABLE;
      return rv;
    }
    length = point.length;
    if (value[0] == 'r') {
      length -= 2; /* without 04 41 */
      memmove(octets, octets + 3, length);
    } else {
      length += 1;
      octets[0] = 3, octets[1] = (octet)(length - 2), octets[2] = 0;
    }
  } else {
    for (; value[2 * length] && length < sizeof octets; length++) {
      unsigned octet_value;
      sscanf(value + 2 * length, "%2x", &octet_value);
      octets[length] = (octet)octet_value;
    }
  }
  if (attribute->value) memcpy(attribute->value, octets, length);
  attribute->length = length;
  return 0;
}

static ulong_t C_GetAttributeValue(ulong_t session, ulong_t object, struct attribute *attributes, ulong_t count) {
  char type[40], value[256];
  struct rule rule;
  ulong_t rv;
  if (before("C_GetAttributeValue", &rv)) return rv;
  if (count == 1) {
    snprintf(type, sizeof type, "value%lx", attributes[0].type);
    if (find("C_GetAttributeValue", type, &rule) && text_of(&rule, type, value, sizeof value))
      return replaced(session, object, attributes, value);
  }
  return REAL(GET_ATTRIBUTE_VALUE, session, object, attributes, count);
}

static ulong_t C_FindObjectsInit(ulong_t session, struct attribute *template, ulong_t count) {
  octet nothing[] = "no object has this label";
  struct attribute none = {3, nothing, sizeof nothing};
  ulong_t rv;
  long value;
  if (!before("C_FindObjectsInit", &rv)) {
    if (count && template[0].type == 0 && number_for("C_FindObjectsInit", "hide", &value) &&
        *(ulong_t *)template[0].value == (ulong_t)value)
      template = &none, count = 1;
    rv = REAL(FIND_OBJECTS_INIT, session, template, count);
  }
  note("C_FindObjectsInit rv=0x%lx\n", rv);
  return rv;
}

static ulong_t C_Sign(ulong_t session, octet *data, ulong_t length, octet *signature, ulong_t *size) {
  ulong_t rv;
  long value;
  if (!before("C_Sign", &rv)) rv = REAL(SIGN, session, data, length, signature, size);
  if (!rv && number_for("C_Sign", "flip", &value)) signature[*size - 1] ^= 1;
  if (!rv && number_for("C_Sign", "length", &value)) {
    if ((ulong_t)value > *size) memset(signature + *size, 0, (ulong_t)value - *size);
    *size = (ulong_t)value;
  }
  rv = after("C_Sign", rv);
  note("C_Sign length=%lu rv=0x%lx\n", length, rv);
  return rv;
}

ulong_t C_GetFunctionList(struct list **list) {
  const char *path = getenv("FAULT_MODULE"), *missing = getenv("FAULT_MISSING");
  void *library = path ? dlopen(path, RTLD_NOW) : NULL;
  ulong_t (*get)(struct list **) = library ? (ulong_t(*)(struct list **))dlsym(library, "C_GetFunctionList") : NULL;
  if (!get || get(&real)) return 5;
  ours = *real;
  ours.functions[INITIALIZE] = C_Initialize;
  ours.functions[FINALIZE] = C_Finalize;
  ours.functions[GET_SLOT_LIST] = C_GetSlotList;
  ours.functions[GET_TOKEN_INFO] = C_GetTokenInfo;
  ours.functions[GET_MECHANISM_LIST] = C_GetMechanismList;
  ours.functions[OPEN_SESSION] = C_OpenSession;
  ours.functions[CLOSE_SESSION] = C_CloseSession;
  ours.functions[LOGIN] = C_Login;
  ours.functions[GET_ATTRIBUTE_VALUE] = C_GetAttributeValue;
  ours.functions[FIND_OBJECTS_INIT] = C_FindObjectsInit;
  ours.functions[SIGN_INIT] = C_SignInit;
  ours.functions[SIGN] = C_Sign;
  ours.functions[GENERATE_KEY_PAIR] = missing ? NULL : C_GenerateKeyPair;
  *list = &ours;
  return 0;
}
