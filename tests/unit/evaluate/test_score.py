import json
import math

import numpy as np
import pytest

from phiforge.evaluate.score import MIN_BLOCK, Score, clusters_of, exp_score, ratio_score


def test_blocks_when_documents_are_few_and_never_across_two():
    documents = np.repeat([0, 1], [5_000, 1_000])
    cluster, kind = clusters_of(documents)
    assert kind == "block"
    assert cluster[0] == 0 and set(np.diff(cluster)) <= {0, 1}
    assert cluster[4_999] != cluster[5_000]
    sizes = np.bincount(cluster)
    assert sizes.min() >= MIN_BLOCK and len(sizes) > 20


def test_documents_when_there_are_enough_whatever_their_numbers():
    documents = np.repeat(np.arange(12) * 7 + 3, 4)
    cluster, kind = clusters_of(documents)
    assert kind == "document" and cluster.tolist() == np.repeat(np.arange(12), 4).tolist()


@pytest.mark.parametrize("lengths", [[1], [199], [401], [1, 1, 1], [10_001, 3]])
def test_odd_sizes_keep_every_observation(lengths):
    cluster, _ = clusters_of(np.repeat(np.arange(len(lengths)), lengths))
    assert len(cluster) == sum(lengths) and set(cluster) == set(range(cluster[-1] + 1))


def test_ratio_error_covers_the_truth_as_often_as_it_says():
    """200 texts of 40 documents whose levels differ: 95 % intervals by document hold the truth that often, by token far less."""
    rng = np.random.default_rng(0)
    held = naive = 0
    for _ in range(200):
        sizes = rng.integers(20, 200, 40)
        documents = np.repeat(np.arange(40), sizes)
        top = 2.0 + rng.normal(0, 0.3, 40)[documents] + rng.normal(0, 1, len(documents))
        score = ratio_score(top, np.ones(len(top)), documents)
        low, high = score.interval()
        held += low <= 2.0 <= high
        naive += abs(score.value - 2.0) <= 1.96 * top.std() / math.sqrt(len(top))
    assert 180 <= held <= 199 and naive < 150


def test_independent_observations_give_the_textbook_error():
    rng = np.random.default_rng(1)
    top = rng.normal(1, 1, 60_000)
    score = ratio_score(top, np.ones(len(top)), np.repeat(np.arange(600), 100))
    assert score.standard_error == pytest.approx(1 / math.sqrt(60_000), rel=0.1)
    assert (score.n, score.clusters, score.cluster) == (60_000, 600, "document")


def test_exponential_carries_the_error():
    score = exp_score(Score(value=2.0, standard_error=0.01, n=5))
    assert score.value == pytest.approx(math.exp(2)) and score.standard_error == pytest.approx(0.01 * math.exp(2))
    assert exp_score(Score(value=1e9, standard_error=None, n=1)).value == math.inf


def test_nothing_scored_is_not_a_number_and_still_json():
    score = ratio_score(np.zeros(0), np.zeros(0), np.zeros(0, np.int64))
    assert math.isnan(score.value) and score.standard_error is None
    again = Score.from_json(json.loads(json.dumps(score.to_json(), allow_nan=False)))
    assert math.isnan(again.value) and again.n == 0


def test_json_round_trip_and_text():
    score = Score(value=1.83456, standard_error=0.0123, n=1000, clusters=12, cluster="document")
    assert Score.from_json(json.loads(json.dumps(score.to_json()))) == score
    assert str(score) == "1.835 ± 0.012"
    assert str(Score(value=2.5, standard_error=None, n=1)) == "2.5"
    assert score.interval(z=1) == (pytest.approx(1.82226), pytest.approx(1.84686))
