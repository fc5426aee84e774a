"""The classifier that is fitted to a frozen network is the regression that it says, by another solver and scikit-learn."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from compress.errors import CompressError
from compress.freezing import evaluating
from compress.models import Network
from compress.training.linear_probe import LabelledFeatures, compute_features, fit_probe, set_classifier
from tests.tiny import Tiny, held_out, split, tiny


def draw(count, classes, seed=0, width=6):
    """Return features of classes that overlap, one of which never changes."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    values = random.normal(size=(count, width)) * np.array([1, 5, 0.1, 2, 1, 0])[:width]
    values[:, 0] += labels
    return LabelledFeatures((values + 3).astype(np.float32), labels)


def test_it_is_the_minimum_of_the_stated_objective():
    """Mean cross-entropy plus half of ridge times the squared weights, minimised by SciPy in float64, gives the same scores."""
    train, classes, ridge = draw(90, 3), 3, 0.01
    chosen, _ = fit_probe(train, draw(30, 3, seed=1), classes=classes, ridges=[ridge])
    values = train.values[:, :5].astype(np.float64)
    scaled = (values - values.mean(axis=0)) / values.std(axis=0)

    def objective(flat):
        weight, bias = flat[:15].reshape(3, 5), flat[15:]
        logits = torch.from_numpy(scaled @ weight.T + bias)
        entropy = torch.nn.functional.cross_entropy(logits, torch.from_numpy(train.labels))
        return float(entropy) + ridge / 2 * float((weight**2).sum())

    best = minimize(objective, np.zeros(18), method="L-BFGS-B", options={"ftol": 1e-14, "gtol": 1e-9, "maxfun": 100000}).x
    expected = scaled @ best[:15].reshape(3, 5).T + best[15:]
    found = train.values @ chosen.weight.T + chosen.bias
    centred = [each - each.mean(axis=1, keepdims=True) for each in (expected, found)]
    np.testing.assert_allclose(centred[1], centred[0], atol=5e-3)  # scikit-learn ends at a gradient of 1e-4


def test_a_network_answers_as_scikit_learn_does_on_its_features():
    """With the fitted classifier the network itself has the very answers of scikit-learn's own pipeline."""
    network, data = tiny(4), split()
    features = compute_features(network, held_out(), len(data.labels))
    chosen, tried = fit_probe(features, features, classes=4, ridges=(1.0, 0.001))
    set_classifier(network, chosen)
    with evaluating(network):
        answers = torch.cat([network(batch.images) for batch in held_out().epoch(0)]).argmax(dim=1).numpy()
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=1 / (chosen.ridge * 70), max_iter=500))
    theirs.fit(features.values, data.labels)
    assert (theirs.predict(features.values) == answers).all()
    assert chosen.top1_percent == pytest.approx(100 * (answers == data.labels).mean())
    assert [each.ridge for each in tried] == [1.0, 0.001]
    assert chosen.top1_percent == max(each.top1_percent for each in tried) > 60


def test_the_features_are_what_the_classifier_reads():
    """Of every image in order, computed in evaluation mode, so that the classifier of them gives the network's logits."""
    network = tiny(4)
    features = compute_features(network, held_out(), 70)
    with evaluating(network):
        logits = torch.cat([network(batch.images) for batch in held_out().epoch(0)])
        again = network.classifier(torch.from_numpy(features.values))
    torch.testing.assert_close(again, logits)
    assert (features.labels == split().labels).all()


def test_two_classes_are_two_rows():
    """scikit-learn has one row for two classes; the shares that the network gives are the same."""
    train = draw(40, 2)
    chosen, _ = fit_probe(train, train, classes=2, ridges=[0.1])
    theirs = make_pipeline(StandardScaler(), LogisticRegression(C=1 / (0.1 * 40), max_iter=500))
    theirs.fit(train.values, train.labels)
    logits = torch.from_numpy(train.values @ chosen.weight.T + chosen.bias)
    np.testing.assert_allclose(logits.softmax(dim=1).numpy(), theirs.predict_proba(train.values), atol=1e-3)  # where each ends


def test_a_class_without_images_is_never_answered():
    """It has weights, as the network needs a row for it, and never the largest logit."""
    train = draw(60, 3)
    chosen, _ = fit_probe(train, train, classes=5, ridges=[0.01])
    noise = np.random.default_rng(3).normal(size=(2000, 6)) * 50
    assert chosen.weight.shape == (5, 6)
    assert set((noise @ chosen.weight.T + chosen.bias).argmax(axis=1)) <= {0, 1, 2}


def test_what_cannot_be_fitted_is_refused():
    """One class, a network without a named classifier, and features that are not finite."""
    train = draw(12, 1)
    with pytest.raises(CompressError, match="all of one class"):
        fit_probe(train, train, classes=2, ridges=[1.0])
    with pytest.raises(CompressError, match="names no classifier"):
        compute_features(Network(Tiny(2), taps=("first",)), held_out(), 70)
    broken = tiny(2)
    broken.module.second[1].running_mean.fill_(float("nan"))
    with pytest.raises(CompressError, match="features are not finite"):
        compute_features(broken, held_out(), 70)
