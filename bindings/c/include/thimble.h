/* thimble's engine as a C library: opens a model that thimble wrote, runs token ids or texts through it, and gives the outputs and
 * the decoded answer. C99; a C++ program can include it.
 *
 *     thimble_model *model = NULL;
 *     thimble_answers *answers = NULL;
 *     if (thimble_model_open("small.onnx", NULL, &model) == THIMBLE_SUCCESS
 *         && thimble_answer_text(model, "Perl module to parse dates", NULL, &answers) == THIMBLE_SUCCESS)
 *         printf("%s %.3f\n", thimble_answers_label(answers, 0), thimble_answers_score(answers, 0));
 *     else
 *         fprintf(stderr, "%s\n", thimble_last_error());
 *     thimble_answers_free(answers);
 *     thimble_model_close(model);
 *
 * Errors. A function that can fail returns THIMBLE_SUCCESS (0) or one of the codes below, and stores nothing in its last argument
 * unless it succeeds. thimble_last_error() then has the words: one line that names the file or the field. NULL where an argument is
 * needed and text that is not UTF-8 are errors. A handle that was closed must not be used again; that cannot be checked.
 *
 * Memory. The library allocates what it hands out, and only its own functions free it: thimble_model_close, thimble_outputs_free and
 * thimble_answers_free. All three take NULL. Pointers that a getter returns live as long as the handle they were asked of. Outputs
 * and answers do not need the model any more and may be freed after it. Arguments are copied; the caller keeps them.
 *
 * Threads. Several threads may call any function at once, also with the same model: they share its weights, and a call that finds the
 * model's threads taken computes on its own thread. Outputs and answers are never changed, so several threads may read them. The one
 * that frees or closes a handle must be the last that uses it. After fork, the child must not use a model that was opened with more
 * than one thread.
 *
 * The file. A model is mapped, not read: pages come from storage when they are first used. If another program changes it meanwhile, the
 * next call fails with THIMBLE_E_MODEL; if another program cuts it short, the kernel sends SIGBUS, as for every mapped file. Replace
 * a model by renaming a whole file over it, or set `copy` in the options. The library installs no signal handlers, changes no
 * settings of malloc, opens no network connections, and prints nothing but the words of a defect. */
#ifndef THIMBLE_H
#define THIMBLE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* What a function returns. */
enum {
    THIMBLE_SUCCESS = 0,
    /* An argument is NULL, not UTF-8, negative or too large. */
    THIMBLE_E_ARGUMENT = 1,
    /* The model or its tokenizer cannot be opened, is none, or was written to while it was in use. */
    THIMBLE_E_MODEL = 2,
    /* The input does not fit the model: an id out of the vocabulary, too many tokens, another shape, a field that the head has not. */
    THIMBLE_E_INPUT = 3,
    /* The engine failed on an input that fits. */
    THIMBLE_E_ENGINE = 4,
    /* A defect of the library. No panic leaves it: this code is returned, and the model may be used further. */
    THIMBLE_E_DEFECT = 5
};

/* A model that is open, with its tokenizer. */
typedef struct thimble_model thimble_model;
/* The outputs of one run, by Hugging Face's names. */
typedef struct thimble_outputs thimble_outputs;
/* One answer for each text or sequence that was asked. */
typedef struct thimble_answers thimble_answers;

/* How a model is opened. Begin with THIMBLE_OPTIONS_INIT, which sets all but `size` to 0. */
typedef struct thimble_options {
    /* sizeof(thimble_options): a later version may add fields at the end. */
    size_t size;
    /* Threads to compute on, the caller's included; 0: as many as there are physical cores. At most 256. */
    int threads;
    /* 0: map the file. 1: read it into memory, so that nobody can change it while it is used. */
    int copy;
    /* Path of a tokenizer.json, or NULL: the one beside the model, if the model was written with it. */
    const char *tokenizer;
} thimble_options;

#define THIMBLE_OPTIONS_INIT {sizeof(thimble_options), 0, 0, NULL}

/* Token ids of one run, special tokens included, row-major. */
typedef struct thimble_input {
    /* Rows of the vocabulary, each at least 0; batch * seq values, or batch * choices * seq. */
    const int64_t *ids;
    /* 1 for tokens and 0 for padding, as many values; NULL: no padding. */
    const int64_t *mask;
    /* Token types, 0 or 1, as many values; NULL: all 0. */
    const int64_t *types;
    /* Sequences, or questions of a multiple choice model. At least 1. */
    size_t batch;
    /* Choices of each question of a multiple choice model; 0 for every other model. */
    size_t choices;
    /* Tokens of each sequence; at most thimble_model_positions. */
    size_t seq;
} thimble_input;

/* One output: row-major numbers. */
typedef struct thimble_tensor {
    /* Hugging Face's name, such as "logits" or "last_hidden_state". */
    const char *name;
    /* `count` numbers. They may be NaN or infinite where the weights are. */
    const float *data;
    /* Product of the shape. */
    size_t count;
    /* Dimensions in use, at most 4. */
    size_t rank;
    /* Outermost first; 0 beyond `rank`. */
    size_t shape[4];
} thimble_tensor;

/* The version of the library, such as "0.1.0". */
const char *thimble_version(void);

/* What the last call on this thread that failed says, in one line; "" if none has. It lives until the next call on this thread
 * that fails. */
const char *thimble_last_error(void);

/* Opens the model at `path`, a file that `thimble export` or `thimble shrink` wrote. `options` may be NULL. The handle goes to
 * `*model` and must be closed with thimble_model_close. */
int thimble_model_open(const char *path, const thimble_options *options, thimble_model **model);

/* Ends the threads of the model and unmaps it. */
void thimble_model_close(thimble_model *model);

/* What the model is, as one JSON object: file, bytes, head, labels, positions, vocabulary, types, outputs (name and whether one row a
 * token), text (whether it takes texts), threads, formats of its weights, and notes about its tokenizer. NULL if `model` is. */
const char *thimble_model_describe(const thimble_model *model);

/* 1 if the model takes texts, 0 if it takes token ids only or is NULL. */
int thimble_model_takes_text(const thimble_model *model);

/* Most tokens of a sequence. 0 if `model` is NULL. */
size_t thimble_model_positions(const thimble_model *model);

/* Rows of the vocabulary; ids are below it. 0 if `model` is NULL. */
size_t thimble_model_vocabulary(const thimble_model *model);

/* Labels of a classifier; 0 for other heads, or if `model` is NULL. */
size_t thimble_model_label_count(const thimble_model *model);

/* The label of that number. NULL if there is none. */
const char *thimble_model_label(const thimble_model *model, size_t index);

/* Runs token ids and gives all outputs. Numbers at padded positions are unspecified. The outputs must be freed with
 * thimble_outputs_free. */
int thimble_run(const thimble_model *model, const thimble_input *input, thimble_outputs **outputs);

/* How many outputs there are. 0 if `outputs` is NULL. */
size_t thimble_outputs_count(const thimble_outputs *outputs);

/* Fills `tensor` with the output of that number. THIMBLE_E_ARGUMENT if there is none. */
int thimble_outputs_at(const thimble_outputs *outputs, size_t index, thimble_tensor *tensor);

/* Fills `tensor` with the output of that name. THIMBLE_E_ARGUMENT if there is none. */
int thimble_outputs_named(const thimble_outputs *outputs, const char *name, thimble_tensor *tensor);

/* Frees outputs and the tensors that were filled from them. */
void thimble_outputs_free(thimble_outputs *outputs);

/* Answers a text, or a text and its pair (else NULL), both UTF-8: special tokens are added, and a text beyond the model's positions
 * is cut, which the answer's JSON says ("truncated"). For question answering the text is the question and the pair the context. The
 * answers must be freed with thimble_answers_free. */
int thimble_answer_text(const thimble_model *model, const char *text, const char *pair, thimble_answers **answers);

/* Answers `count` texts, short ones together in one pass, which is faster than one by one. `pairs` is NULL or has `count` pairs,
 * each of which may be NULL. If one cannot be answered, none is, and the error says which, counted from 0. */
int thimble_answer_texts(const thimble_model *model, const char *const *texts, const char *const *pairs, size_t count,
                         thimble_answers **answers);

/* Answers one sequence of `count` token ids, special tokens included. `types` is NULL or has `count` token types. */
int thimble_answer_ids(const thimble_model *model, const int64_t *ids, const int64_t *types, size_t count,
                       thimble_answers **answers);

/* Answers a request in the JSON of thimble's docs/serve.md, such as {"text": "…", "pair": "…", "max_answer": 8} or {"choices":
 * [[2, 17, 3], [2, 9, 3]]}: all that the other functions ask, and the options of each head. */
int thimble_answer_json(const thimble_model *model, const char *request, thimble_answers **answers);

/* How many answers there are. 0 if `answers` is NULL. */
size_t thimble_answers_count(const thimble_answers *answers);

/* The answer of that number as one JSON object: the fields of docs/serve.md without "id" and "ms". NULL if there is none. */
const char *thimble_answers_json(const thimble_answers *answers, size_t index);

/* The answer in a word: the label of a classifier, the name of a regression's one value, the text that answers a question, or the
 * likeliest token for the first mask token of a text. NULL if the head has no such word. */
const char *thimble_answers_label(const thimble_answers *answers, size_t index);

/* The number of that label or token, or of the choice that a multiple choice model takes. -1 if there is none. */
int64_t thimble_answers_choice(const thimble_answers *answers, size_t index);

/* The probability of that answer, 0 to 1, or the value of a regression. NaN if there is none. */
double thimble_answers_score(const thimble_answers *answers, size_t index);

/* The embedding of a sentence encoder; its length goes to `*count`, unless that is NULL. NULL if the head has none. */
const float *thimble_answers_embedding(const thimble_answers *answers, size_t index, size_t *count);

/* Frees answers and all that was asked of them. */
void thimble_answers_free(thimble_answers *answers);

#ifdef __cplusplus
}
#endif

#endif
