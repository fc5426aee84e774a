"""Study of methods: which is worth how much, at its default and at its own learning rate, by hypotheses stated beforehand."""
