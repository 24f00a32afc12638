/* Asks a model once and prints what it says.
 *
 *     answer MODEL.onnx TEXT [PAIR]     the answer to a text, or to a text and its pair
 *     answer MODEL.onnx --ids 2,17,3    the answer to token ids, and the shape of each output
 *
 * Exit codes: 0 an answer, 1 the model refused the input, 2 anything else. */
#include "thimble.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failed(int code)
{
    fprintf(stderr, "error: %s\n", thimble_last_error());
    return code == THIMBLE_E_INPUT ? 1 : 2;
}

/* The ids of "2,17,3", to be freed; NULL where it is no such list. */
static int64_t *parse(const char *list, size_t *count)
{
    int64_t *ids = malloc((strlen(list) / 2 + 1) * sizeof *ids);
    char *end;
    for (*count = 0; ids; list = end + 1) {
        errno = 0;
        ids[(*count)++] = strtoll(list, &end, 10);
        if (end != list && errno == 0 && *end == 0)
            return ids;
        if (end == list || errno != 0 || *end != ',')
            break;
    }
    free(ids);
    return NULL;
}

static int print_outputs(const thimble_model *model, const int64_t *ids, size_t count)
{
    thimble_input input = {0};
    thimble_outputs *outputs = NULL;
    thimble_tensor tensor;
    size_t i, d;
    int code;
    input.ids = ids;
    input.batch = 1;
    input.seq = count;
    code = thimble_run(model, &input, &outputs);
    if (code != THIMBLE_SUCCESS)
        return failed(code);
    for (i = 0; thimble_outputs_at(outputs, i, &tensor) == THIMBLE_SUCCESS; i++) {
        printf("%s", tensor.name);
        for (d = 0; d < tensor.rank; d++)
            printf(" %zu", tensor.shape[d]);
        printf(": %g ...\n", (double)tensor.data[0]);
    }
    thimble_outputs_free(outputs);
    return 0;
}

int main(int argc, char **argv)
{
    thimble_model *model = NULL;
    thimble_answers *answers = NULL;
    const char *label;
    int code, result = 0;
    if (argc < 3 || argc > 4) {
        fprintf(stderr, "usage: answer MODEL.onnx (TEXT [PAIR] | --ids LIST)\n");
        return 2;
    }
    code = thimble_model_open(argv[1], NULL, &model);
    if (code != THIMBLE_SUCCESS)
        return failed(code);
    if (argc == 4 && strcmp(argv[2], "--ids") == 0) {
        size_t count;
        int64_t *ids = parse(argv[3], &count);
        if (!ids) {
            fprintf(stderr, "error: '%s' is no list of ids\n", argv[3]);
            thimble_model_close(model);
            return 2;
        }
        result = print_outputs(model, ids, count);
        code = result ? THIMBLE_SUCCESS : thimble_answer_ids(model, ids, NULL, count, &answers);
        free(ids);
    } else {
        code = thimble_answer_text(model, argv[2], argc == 4 ? argv[3] : NULL, &answers);
    }
    if (code != THIMBLE_SUCCESS)
        result = failed(code);
    if (answers) {
        label = thimble_answers_label(answers, 0);
        printf("%s %.6f\n%s\n", label ? label : "-", thimble_answers_score(answers, 0), thimble_answers_json(answers, 0));
    }
    thimble_answers_free(answers);
    thimble_model_close(model);
    return result;
}
