import numpy as np
import pytest

from taskpgm_ray import affinity
from taskpgm_ray.errors import InputError


def test_text_affinity_sees_words():
    texts = [["add the two numbers", "add the three numbers"], ["add the numbers"], ["translate this french word"]]
    S = affinity.text_affinity(texts)
    assert S[0, 1] > 0.4 > S[0, 2]
    assert np.linalg.eigvalsh(S).min() > -1e-12
    with pytest.raises(InputError, match="task 1 has no text"):
        affinity.text_affinity([["a b"], [" "]])
