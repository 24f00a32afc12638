/* Calls every function with arguments that no caller should give: NULL, text that is not UTF-8, ids out of the vocabulary, too many
 * tokens, shapes that no model takes. Each must end in a code and words, and leave the model fit for the next call.
 *
 *     attacks MODEL.onnx SCRATCH-DIR     the model is a classifier with a tokenizer beside it; the last line counts the checks */
#include "thimble.h"
#include "thimble_client.h" /* both headers of thimble go into one program */

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int checks;

#define CHECK(condition)                                                                                  \
    do {                                                                                                  \
        checks++;                                                                                         \
        if (!(condition)) {                                                                               \
            printf("line %d: %s (last error: %s)\n", __LINE__, #condition, thimble_last_error());         \
            exit(1);                                                                                      \
        }                                                                                                 \
    } while (0)

/* The call fails with this code, and the words hold a text. */
#define FAILS(call, code, words)                              \
    do {                                                      \
        CHECK((call) == (code));                              \
        CHECK(strstr(thimble_last_error(), (words)) != NULL); \
    } while (0)

static const int64_t SOUND[] = {2, 119, 50, 13, 343, 3};
static const size_t COUNT = sizeof SOUND / sizeof *SOUND;

static thimble_input sound(void)
{
    thimble_input input;
    memset(&input, 0, sizeof input);
    input.ids = SOUND;
    input.batch = 1;
    input.seq = COUNT;
    return input;
}

static double score(const thimble_model *model)
{
    thimble_answers *answers = NULL;
    double found;
    if (thimble_answer_ids(model, SOUND, NULL, COUNT, &answers) != THIMBLE_SUCCESS)
        return -1;
    found = thimble_answers_score(answers, 0);
    thimble_answers_free(answers);
    return found;
}

static void files(const char *path, const char *dir)
{
    char name[4096];
    thimble_model *model = (thimble_model *)&checks;
    thimble_options options = THIMBLE_OPTIONS_INIT;
    FILE *from, *to;
    static char bytes[4096];
    size_t size;
    CHECK(strcmp(thimble_last_error(), "") == 0);
    FAILS(thimble_model_open(NULL, NULL, &model), THIMBLE_E_ARGUMENT, "path is NULL");
    FAILS(thimble_model_open(path, NULL, NULL), THIMBLE_E_ARGUMENT, "model is NULL");
    FAILS(thimble_model_open("\xff\xfe.onnx", NULL, &model), THIMBLE_E_ARGUMENT, "path is not UTF-8 at byte 1");
    FAILS(thimble_model_open("", NULL, &model), THIMBLE_E_MODEL, "No such file");
    FAILS(thimble_model_open("no-such.onnx", NULL, &model), THIMBLE_E_MODEL, "no-such.onnx");
    FAILS(thimble_model_open(dir, NULL, &model), THIMBLE_E_MODEL, "directory");
    /* Text, nothing, and the first bytes of a model. */
    snprintf(name, sizeof name, "%s/text.onnx", dir);
    to = fopen(name, "wb");
    CHECK(to && fputs("no model", to) >= 0 && fclose(to) == 0);
    FAILS(thimble_model_open(name, NULL, &model), THIMBLE_E_MODEL, "text.onnx");
    snprintf(name, sizeof name, "%s/empty.onnx", dir);
    to = fopen(name, "wb");
    CHECK(to && fclose(to) == 0);
    FAILS(thimble_model_open(name, NULL, &model), THIMBLE_E_MODEL, "empty");
    snprintf(name, sizeof name, "%s/cut.onnx", dir);
    from = fopen(path, "rb");
    to = fopen(name, "wb");
    CHECK(from && to);
    size = fread(bytes, 1, sizeof bytes, from);
    CHECK(size == sizeof bytes && fwrite(bytes, 1, size, to) == size);
    CHECK(fclose(from) == 0 && fclose(to) == 0);
    FAILS(thimble_model_open(name, NULL, &model), THIMBLE_E_MODEL, "cut.onnx");
    options.threads = -1;
    FAILS(thimble_model_open(path, &options, &model), THIMBLE_E_ARGUMENT, "options.threads is -1");
    options.threads = 257;
    FAILS(thimble_model_open(path, &options, &model), THIMBLE_E_ARGUMENT, "0 to 256");
    options.threads = 1;
    options.copy = 2;
    FAILS(thimble_model_open(path, &options, &model), THIMBLE_E_ARGUMENT, "options.copy is 2");
    options.copy = 0;
    options.tokenizer = name;
    FAILS(thimble_model_open(path, &options, &model), THIMBLE_E_MODEL, "cut.onnx: not a tokenizer");
    options.tokenizer = "\xc3(";
    FAILS(thimble_model_open(path, &options, &model), THIMBLE_E_ARGUMENT, "options.tokenizer is not UTF-8");
    options.size = 8;
    FAILS(thimble_model_open(path, &options, &model), THIMBLE_E_ARGUMENT, "THIMBLE_OPTIONS_INIT");
    /* Nothing was stored. */
    CHECK(model == (thimble_model *)&checks);
}

static void null_handles(void)
{
    thimble_outputs *outputs = NULL;
    thimble_answers *answers = NULL;
    thimble_tensor tensor;
    thimble_input input = sound();
    size_t count = 7;
    thimble_model_close(NULL);
    thimble_outputs_free(NULL);
    thimble_answers_free(NULL);
    CHECK(thimble_model_describe(NULL) == NULL);
    CHECK(thimble_model_takes_text(NULL) == 0);
    CHECK(thimble_model_positions(NULL) == 0);
    CHECK(thimble_model_vocabulary(NULL) == 0);
    CHECK(thimble_model_label_count(NULL) == 0);
    CHECK(thimble_model_label(NULL, 0) == NULL);
    FAILS(thimble_run(NULL, &input, &outputs), THIMBLE_E_ARGUMENT, "model is NULL");
    FAILS(thimble_answer_text(NULL, "x", NULL, &answers), THIMBLE_E_ARGUMENT, "model is NULL");
    FAILS(thimble_answer_ids(NULL, SOUND, NULL, COUNT, &answers), THIMBLE_E_ARGUMENT, "model is NULL");
    FAILS(thimble_answer_json(NULL, "{}", &answers), THIMBLE_E_ARGUMENT, "model is NULL");
    CHECK(thimble_outputs_count(NULL) == 0);
    FAILS(thimble_outputs_at(NULL, 0, &tensor), THIMBLE_E_ARGUMENT, "outputs is NULL");
    FAILS(thimble_outputs_named(NULL, "logits", &tensor), THIMBLE_E_ARGUMENT, "outputs is NULL");
    CHECK(thimble_answers_count(NULL) == 0);
    CHECK(thimble_answers_json(NULL, 0) == NULL);
    CHECK(thimble_answers_label(NULL, 0) == NULL);
    CHECK(thimble_answers_choice(NULL, 0) == -1);
    CHECK(isnan(thimble_answers_score(NULL, 0)));
    CHECK(thimble_answers_embedding(NULL, 0, &count) == NULL && count == 0);
    CHECK(outputs == NULL && answers == NULL);
}

static void inputs(const thimble_model *model)
{
    thimble_outputs *outputs = NULL;
    thimble_tensor tensor;
    thimble_input input = sound();
    int64_t bad[] = {2, 119, 50, 13, 343, 3};
    int64_t mask[] = {1, 1, 1, 1, 1, 2};
    FAILS(thimble_run(model, NULL, &outputs), THIMBLE_E_ARGUMENT, "input is NULL");
    FAILS(thimble_run(model, &input, NULL), THIMBLE_E_ARGUMENT, "outputs is NULL");
    input.ids = NULL;
    FAILS(thimble_run(model, &input, &outputs), THIMBLE_E_ARGUMENT, "input.ids is NULL");
    input.ids = bad;
    bad[2] = (int64_t)thimble_model_vocabulary(model);
    FAILS(thimble_run(model, &input, &outputs), THIMBLE_E_INPUT, "input_ids[2]");
    bad[2] = -1;
    FAILS(thimble_run(model, &input, &outputs), THIMBLE_E_INPUT, "is -1");
    bad[2] = INT64_MIN;
    FAILS(thimble_run(model, &input, &outputs), THIMBLE_E_INPUT, "input_ids[2]");
    input.ids = SOUND;
    input.mask = mask;
    FAILS(thimble_run(model, &input, &outputs), THIMBLE_E_INPUT, "attention_mask[5] is 2");
    input.mask = NULL;
    input.types = mask;
    FAILS(thimble_run(model, &input, &outputs), THIMBLE_E_INPUT, "token_type_ids[5] is 2");
    input.types = NULL;
    input.batch = 0;
    FAILS(thimble_run(model, &input, &outputs), THIMBLE_E_INPUT, "[0, 6]");
    input.batch = 1;
    input.seq = 0;
    FAILS(thimble_run(model, &input, &outputs), THIMBLE_E_INPUT, "[1, 0]");
    input.seq = thimble_model_positions(model) + 1;
    FAILS(thimble_run(model, &input, &outputs), THIMBLE_E_INPUT, "positions end at");
    input.seq = SIZE_MAX;
    FAILS(thimble_run(model, &input, &outputs), THIMBLE_E_INPUT, "positions end at");
    input.seq = COUNT;
    input.batch = SIZE_MAX / 2;
    FAILS(thimble_run(model, &input, &outputs), THIMBLE_E_INPUT, "more than memory counts");
    input.batch = SIZE_MAX / 16;
    FAILS(thimble_run(model, &input, &outputs), THIMBLE_E_ARGUMENT, "input.ids cannot have");
    input.batch = 1;
    input.choices = 1;
    FAILS(thimble_run(model, &input, &outputs), THIMBLE_E_INPUT, "this model takes [batch, seq]");
    CHECK(outputs == NULL);
    input.choices = 0;
    CHECK(thimble_run(model, &input, &outputs) == THIMBLE_SUCCESS);
    FAILS(thimble_outputs_at(outputs, 99, &tensor), THIMBLE_E_ARGUMENT, "index is 99");
    FAILS(thimble_outputs_at(outputs, 0, NULL), THIMBLE_E_ARGUMENT, "tensor is NULL");
    FAILS(thimble_outputs_named(outputs, NULL, &tensor), THIMBLE_E_ARGUMENT, "name is NULL");
    FAILS(thimble_outputs_named(outputs, "\xff", &tensor), THIMBLE_E_ARGUMENT, "name is not UTF-8");
    FAILS(thimble_outputs_named(outputs, "pooler", &tensor), THIMBLE_E_ARGUMENT, "there is logits");
    CHECK(thimble_outputs_named(outputs, "logits", &tensor) == THIMBLE_SUCCESS);
    CHECK(tensor.rank == 2 && tensor.shape[0] == 1 && tensor.shape[1] == thimble_model_label_count(model));
    CHECK(tensor.count == tensor.shape[1] && tensor.shape[2] == 0 && strcmp(tensor.name, "logits") == 0);
    thimble_outputs_free(outputs);
}

static void questions(const thimble_model *model)
{
    thimble_answers *answers = NULL;
    int64_t types[] = {0, 0, 0, 0, 0, 9};
    const char *texts[] = {"Perl module to parse dates", "a library\xff"};
    const char *both[] = {"Perl module to parse dates", "a library", ""};
    const char *pairs[] = {NULL, "written in C", NULL};
    char *longest = malloc(200001);
    size_t i;
    CHECK(longest != NULL);
    FAILS(thimble_answer_text(model, NULL, NULL, &answers), THIMBLE_E_ARGUMENT, "text is NULL");
    FAILS(thimble_answer_text(model, "x", NULL, NULL), THIMBLE_E_ARGUMENT, "answers is NULL");
    FAILS(thimble_answer_text(model, "\xed\xa0\x80", NULL, &answers), THIMBLE_E_ARGUMENT, "text is not UTF-8 at byte 1");
    FAILS(thimble_answer_text(model, "x", "ab\xc3", &answers), THIMBLE_E_ARGUMENT, "pair is not UTF-8 at byte 3");
    FAILS(thimble_answer_texts(model, NULL, NULL, 2, &answers), THIMBLE_E_ARGUMENT, "texts is NULL");
    FAILS(thimble_answer_texts(model, texts, NULL, 2, &answers), THIMBLE_E_ARGUMENT, "texts[1] is not UTF-8 at byte 10");
    FAILS(thimble_answer_texts(model, texts, NULL, SIZE_MAX, &answers), THIMBLE_E_ARGUMENT, "cannot have");
    FAILS(thimble_answer_ids(model, NULL, NULL, 3, &answers), THIMBLE_E_ARGUMENT, "ids is NULL");
    FAILS(thimble_answer_ids(model, SOUND, NULL, 0, &answers), THIMBLE_E_INPUT, "ids is empty");
    FAILS(thimble_answer_ids(model, SOUND, NULL, SIZE_MAX, &answers), THIMBLE_E_INPUT, "positions end at");
    FAILS(thimble_answer_ids(model, SOUND, types, COUNT, &answers), THIMBLE_E_INPUT, "types[5] is 9");
    FAILS(thimble_answer_json(model, NULL, &answers), THIMBLE_E_ARGUMENT, "request is NULL");
    FAILS(thimble_answer_json(model, "", &answers), THIMBLE_E_INPUT, "JSON");
    FAILS(thimble_answer_json(model, "[1]", &answers), THIMBLE_E_INPUT, "a request is a JSON object");
    FAILS(thimble_answer_json(model, "{\"ids\": [2, 999999999]}", &answers), THIMBLE_E_INPUT, "ids[1]");
    FAILS(thimble_answer_json(model, "{\"op\": \"stats\"}", &answers), THIMBLE_E_INPUT, "op");
    FAILS(thimble_answer_json(model, "{\"text\": \"\\ud800\"}", &answers), THIMBLE_E_INPUT, "hex escape");
    FAILS(thimble_answer_json(model, "{\"ids\": [2, 3], \"max_answer\": 3}", &answers), THIMBLE_E_INPUT, "max_answer");
    CHECK(answers == NULL);
    /* A text that is too long is cut and says so; an empty one is a text. */
    for (i = 0; i < 200000; i++)
        longest[i] = i % 5 == 4 ? ' ' : 'a';
    longest[200000] = 0;
    CHECK(thimble_answer_text(model, longest, NULL, &answers) == THIMBLE_SUCCESS);
    CHECK(strstr(thimble_answers_json(answers, 0), "\"truncated\":true") != NULL);
    thimble_answers_free(answers);
    free(longest);
    CHECK(thimble_answer_texts(model, both, pairs, 3, &answers) == THIMBLE_SUCCESS);
    CHECK(thimble_answers_count(answers) == 3);
    CHECK(thimble_answers_label(answers, 3) == NULL && thimble_answers_json(answers, SIZE_MAX) == NULL);
    CHECK(thimble_answers_embedding(answers, 0, NULL) == NULL);
    for (i = 0; i < 3; i++)
        CHECK(strcmp(thimble_answers_label(answers, i), thimble_model_label(model, (size_t)thimble_answers_choice(answers, i))) == 0);
    thimble_answers_free(answers);
    CHECK(thimble_answer_texts(model, both, NULL, 0, &answers) == THIMBLE_SUCCESS && thimble_answers_count(answers) == 0);
    thimble_answers_free(answers);
}

struct job {
    const thimble_model *model;
    double want;
    int wrong;
};

static void *ask(void *given)
{
    struct job *job = given;
    int i;
    thimble_answers *answers = NULL;
    /* Errors are each thread's own. */
    job->wrong += strcmp(thimble_last_error(), "") != 0;
    for (i = 0; i < 50; i++) {
        job->wrong += score(job->model) != job->want;
        job->wrong += thimble_answer_text(job->model, "\xff", NULL, &answers) != THIMBLE_E_ARGUMENT;
        job->wrong += strcmp(thimble_last_error(), "text is not UTF-8 at byte 1") != 0;
    }
    return NULL;
}

static void threads(const char *path)
{
    thimble_options options = THIMBLE_OPTIONS_INIT;
    thimble_model *models[2] = {NULL, NULL};
    pthread_t running[8];
    struct job jobs[8];
    int i;
    options.threads = 3;
    CHECK(thimble_model_open(path, &options, &models[0]) == THIMBLE_SUCCESS);
    options.threads = 1;
    options.copy = 1;
    CHECK(thimble_model_open(path, &options, &models[1]) == THIMBLE_SUCCESS);
    for (i = 0; i < 8; i++) {
        jobs[i].model = models[i % 2];
        jobs[i].want = score(models[0]);
        jobs[i].wrong = 0;
        CHECK(pthread_create(&running[i], NULL, ask, &jobs[i]) == 0);
    }
    for (i = 0; i < 8; i++)
        CHECK(pthread_join(running[i], NULL) == 0 && jobs[i].wrong == 0);
    thimble_model_close(models[0]);
    thimble_model_close(models[1]);
}

int main(int argc, char **argv)
{
    thimble_model *model = NULL;
    double before;
    if (argc != 3)
        return 2;
    files(argv[1], argv[2]);
    null_handles();
    CHECK(thimble_model_open(argv[1], NULL, &model) == THIMBLE_SUCCESS);
    CHECK(thimble_model_takes_text(model) == 1);
    CHECK(thimble_model_label(model, thimble_model_label_count(model)) == NULL);
    CHECK(strstr(thimble_model_describe(model), "\"outputs\":[{\"name\":\"logits\"") != NULL);
    before = score(model);
    CHECK(before > 0);
    inputs(model);
    questions(model);
    CHECK(score(model) == before);
    thimble_model_close(model);
    threads(argv[1]);
    printf("%d checks hold\n", checks);
    return 0;
}
