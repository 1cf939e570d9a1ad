// SPDX-License-Identifier: Apache-2.0
// Who is told how the training goes. Each status stands for all before it: a slow follower misses nothing but points of
// the curve. Loop thread.
#include <math.h>
#include <string.h>

#include "firmware/learn_internal.h"

const struct hd_train_view *hd_learn_view(const struct hd_learn *learn)
{
    static const struct hd_train_view nothing;
    return learn ? &learn->view : &nothing;
}

static double known(double value) // 0 = none
{
    return isfinite(value) ? value : 0;
}

static void fill_points(const struct hd_train_view *view, size_t from, Hearth__V1__TrainStatus *status,
                        struct hd_train_points *points)
{
    for (size_t i = from; i < view->n_points; i++) {
        Hearth__V1__TrainPoint *point = &points->items[status->n_points];
        hearth__v1__train_point__init(point);
        point->step = view->points[i].step;
        point->loss = view->points[i].loss;
        point->held_out = view->points[i].held_out;
        points->list[status->n_points++] = point;
    }
    status->points = points->list;
}

void hd_learn_fill(const struct hd_train_view *view, const struct hd_id *person, bool all,
                   Hearth__V1__TrainStatus *status, struct hd_train_points *points)
{
    bool own = hd_id_is_zero(&view->person) || !person || hd_id_equal(person, &view->person);
    hearth__v1__train_status__init(status);
    status->seq = view->seq;
    status->state = (Hearth__V1__TrainStatus__State)view->state;
    status->step = view->step.step;
    status->n_steps = view->step.n_steps;
    status->seconds = view->step.seconds;
    status->eta_seconds = view->eta_s;
    status->memory_bytes = view->memory_bytes;
    status->model = (char *)view->model;
    status->precision = (char *)view->precision;
    if (!own)
        return;
    status->adapter = (char *)view->adapter;
    status->data_set = (char *)view->data_set;
    status->epoch = known(view->step.epoch);
    status->loss = known(view->step.loss);
    status->held_out = view->held_out;
    status->lr = known(view->step.lr);
    status->grad_norm = known(view->step.grad_norm);
    status->tokens = view->step.tokens;
    status->tokens_per_second = known(view->step.tokens_per_second);
    if (!points)
        return;
    if (view->state == HD_TRAIN_FAILED) {
        hearth__v1__error__init(&points->error);
        points->error.code = hd_api_code(view->error.code);
        points->error.message = (char *)view->error.text;
        status->error = &points->error;
    }
    fill_points(view, all ? 0 : view->n_told, status, points);
}

static void send_to(const struct hd_learn *learn, const struct hd_learn_follower *follower, bool all)
{
    Hearth__V1__TrainStatus status;
    struct hd_train_points points;
    Hearth__V1__ServerFrame frame = HEARTH__V1__SERVER_FRAME__INIT;
    hd_learn_fill(&learn->view, &follower->client->device.person, all, &status, &points);
    frame.body_case = HEARTH__V1__SERVER_FRAME__BODY_TRAIN_STATUS;
    frame.train_status = &status;
    hd_api_reply(follower->client, &follower->request, &frame);
}

static bool has_ended(const struct hd_train_view *view)
{
    return view->state == HD_TRAIN_NONE || view->state >= HD_TRAIN_STOPPED;
}

static void tell_all(struct hd_learn *learn)
{
    learn->tell_due = false;
    learn->view.seq++;
    // A send may close its socket, but followers are dropped only when the socket is gone.
    for (size_t i = 0; i < learn->n_followers; i++)
        if (!learn->followers[i].client->close_code)
            send_to(learn, &learn->followers[i], false);
    learn->view.n_told = learn->view.n_points;
    if (has_ended(&learn->view))
        learn->n_followers = 0;
}

static void on_tell(lws_sorted_usec_list_t *sul)
{
    tell_all(lws_container_of(sul, struct hd_learn, tell));
}

void hd_learn_changed(struct hd_learn *learn, bool at_once)
{
    if (at_once) {
        lws_sul_cancel(&learn->tell);
        tell_all(learn);
    } else if (!learn->tell_due) {
        learn->tell_due = true;
        lws_sul_schedule(learn->server->lws, 0, &learn->tell, on_tell, (lws_usec_t)HD_TRAIN_TELL_MS * LWS_US_PER_MS);
    }
}

void hd_learn_follow(struct hd_learn *learn, struct hd_client *client, const struct hd_id *request)
{
    static struct hd_learn nothing;
    struct hd_learn_follower follower = {client, *request};
    send_to(learn ? learn : &nothing, &follower, true);
    if (!learn || has_ended(&learn->view) || client->close_code)
        return;
    if (learn->n_followers == HD_MAX_TRAIN_FOLLOWERS) // the oldest gives way
        memmove(learn->followers, learn->followers + 1, --learn->n_followers * sizeof learn->followers[0]);
    learn->followers[learn->n_followers++] = follower;
}

void hd_learn_drop_socket(struct hd_learn *learn, const struct hd_client *client)
{
    size_t kept = 0;
    if (learn && learn->own.client == client)
        learn->own.client = NULL;
    for (size_t i = 0; learn && i < learn->n_followers; i++)
        if (learn->followers[i].client != client)
            learn->followers[kept++] = learn->followers[i];
    if (learn)
        learn->n_followers = kept;
}
