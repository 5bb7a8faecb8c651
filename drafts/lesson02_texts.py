# Texts of lesson 2. ⟦expression::format⟧ is filled from the executed notebook by lesson02_fill.py (W, D, O, H, E, F, C, K ... are its tables).
TEXTS = {
"FIRST": "⟦m(first('two layers', 'test'))::.3f⟧ on the test images, ⟦points(m(first('two layers', 'test')) - m(first('logistic', 'test')))⟧ percentage points more than logistic regression, while its training accuracy pulls away from the others",
"ANSWERS": """
- **Width.** Test accuracy rises from ⟦m(W.loc[8, 'test'])::.3f⟧ with 8 neurons to ⟦m(W.loc[512, 'test'])::.3f⟧ with 512, every fourfold width brings less, while the gap to the training images opens: [Width](#Width).
- **Depth.** At equal size it changes little: ⟦at(sizes()[0], 2)::.3f⟧, ⟦at(sizes()[0], 3)::.3f⟧, ⟦at(sizes()[0], 5)::.3f⟧ and ⟦at(sizes()[0], 10)::.3f⟧ on the test images with 2, 3, 5 and 10 layers; validation shows no difference: [Depth](#Depth).
- **Optimisers.** At a rate of its own and with one cycle Adam reaches ⟦opt('tuned, one cycle', 'Adam')::.3f⟧, RMSprop ⟦opt('tuned, one cycle', 'RMSprop')::.3f⟧, plain SGD ⟦opt('tuned, one cycle', 'SGD')::.3f⟧; Keras' default rates set them far apart: [Optimisers](#Optimisers).
- **What improved it.** In short runs the learning rate and its cycle; in long ones five changes together, from ⟦m(control('test'))::.3f⟧ to ⟦m(F.loc['one network', 'test'])::.3f⟧. Five networks over ten views have ⟦m(F.loc['all networks, ten views', 'test'])::.3f⟧: [What improved the result](#What-improved-the-result), [The final network](#The-final-network).
- **Classes.** Shirt is the hardest (recall ⟦m(C.loc['Shirt', 'recall'])::.2f⟧, precision ⟦m(C.loc['Shirt', 'precision'])::.2f⟧); four kinds of tops share ⟦100 * tops::.1f⟧ % of all errors: [Errors by class](#Errors-by-class).
- **Documentation.** Ten commands, each with what it brought here: [Keras documentation](#Keras-documentation).
""",
"WIDTH": """
From 8 to 512 neurons test accuracy rises from ⟦m(W.loc[8, 'test'])::.3f⟧ to ⟦m(W.loc[512, 'test'])::.3f⟧: the first fourfold width brings ⟦points(m(WD['test'].iloc[0]))⟧ percentage points, the last ⟦points(m(WD['test'].iloc[-1]))⟧. The training images profit longer: the gap grows from ⟦float(W.loc[8, 'gap'])::.3f⟧ to ⟦float(W.loc[512, 'gap'])::.3f⟧.
""",
"READ_W": """
**How to read it.** Bars are one standard deviation over five seeds. Each row of the last table is a fourfold width; a claim needs Holm's p under 0.05. On the test images ⟦significant(WD)⟧ of the three steps have it, on the validation part ⟦significant(WD, 'validation')⟧; the last one brings ⟦m(WD['test'].iloc[-1])::+.4f⟧ and ⟦m(WD['validation'].iloc[-1])::+.4f⟧. The binomial error of a test accuracy (0.003) is common to all points and mostly cancels in differences. Ten epochs are few for the wide networks.
""",
"DEPTH": """
At equal size depth changes little. With about ⟦sizes()[0]::,.0f⟧ parameters 2, 3, 5 and 10 layers reach ⟦at(sizes()[0], 2)::.3f⟧, ⟦at(sizes()[0], 3)::.3f⟧, ⟦at(sizes()[0], 5)::.3f⟧ and ⟦at(sizes()[0], 10)::.3f⟧ on the test images.

A network of $L$ layers of $w$ neurons has $785w + (L-2)(w+1)w + 10(w+1)$ parameters; the width follows from it, and Keras' own count confirms it.
""",
"READ_D": """
**How to read it.** Each depth is compared with two layers. Holm's p is under 0.05 on the test images for ⟦sized(DD, 'test')⟧, on the validation part for ⟦sized(DD, 'validation')⟧; only what both show could be recommended. All depths share one learning rate; a depth that would like another one is at a disadvantage.
""",
"OPT": """
At Keras' default and constant rates the four optimisers lie ⟦points(spread_of("Keras' default, constant"))⟧ percentage points apart on the test images, from plain SGD (⟦opt("Keras' default, constant", 'SGD')::.3f⟧) to Adam (⟦opt("Keras' default, constant", 'Adam')::.3f⟧); with the best of five rates and one cycle ⟦points(spread_of('tuned, one cycle'))⟧: SGD ⟦opt('tuned, one cycle', 'SGD')::.3f⟧, with momentum ⟦opt('tuned, one cycle', 'SGD + momentum')::.3f⟧, RMSprop ⟦opt('tuned, one cycle', 'RMSprop')::.3f⟧, Adam ⟦opt('tuned, one cycle', 'Adam')::.3f⟧. The network is the one of three layers from above, trained for ten epochs. Below, the worst of three seeds for every rate, on validation:
""",
"READ_O": """
**How to read it.** A rate counts by the worst of its three seeds on validation, since a rate that fails with some seed is no use; the printed line says whether the chosen one lies inside the rates tried. Then come five seeds. The cycle and a rate of its own bring plain SGD ⟦points(opt('tuned, one cycle', 'SGD') - opt("Keras' default, constant", 'SGD'))⟧ points and Adam ⟦points(opt('tuned, one cycle', 'Adam') - opt("Keras' default, constant", 'Adam'))⟧. Against Adam, Holm's p (taken over the three rows of each way) is under 0.05 on validation and test alike for: ⟦both_claimed(OD)⟧. Ten epochs are few for plain SGD, which learns slowest.
""",
"HELPED": """
In runs of ten epochs the learning rate counts most: kept at Keras' 0.001 it costs ⟦points(m(E.loc['constant rate 0.001', 'test']))⟧ percentage points, kept at 0.004 ⟦points(m(E.loc['constant rate 0.004', 'test']))⟧, against one cycle up to 0.008. Batch normalisation brings ⟦m(E.loc['batch normalisation', 'test'])::+.4f⟧, twice the epochs ⟦m(E.loc['twice the epochs', 'test'])::+.4f⟧. All five parts of the later recipe together change a short run by ⟦m(E.loc['all five', 'test'])::+.4f⟧: they need time, which the next section gives them. The reference is the network of the depth table with the best validation accuracy; one thing changes at a time.
""",
"READ_H": """
**How to read it.** The validation part decides. With Holm's p under 0.05 over the table it gains by: ⟦claimed(E, 'validation', +1)⟧; it loses by: ⟦claimed(E, 'validation', -1)⟧. On the test images the same rule gives gains by: ⟦claimed(E, 'test', +1)⟧; losses by: ⟦claimed(E, 'test', -1)⟧. Everything else is not shown here, which is not the same as without effect: each change has one strength, and one length of training.
""",
"FINAL": """
One network of three hidden layers of 512 neurons, trained for 40 epochs with all five changes, reaches ⟦m(F.loc['one network', 'test'])::.4f⟧; the same network and training without them ⟦m(control('test'))::.4f⟧ (three seeds). The mean over ten views of each image brings ⟦m(F.loc['one network, ten views', 'test'])::.4f⟧, five networks together ⟦m(F.loc['all networks, ten views', 'test'])::.4f⟧.

The recipe (with a peak rate of 0.004, half that of the short runs) was chosen beforehand by accuracy on held-out training images alone, on several splits; these trials are not on this page. There the parts depended on each other: moved images made the network worse without batch normalisation, batch normalisation learned the training images by heart without moved ones, and dropout never helped. Here the recipe runs once for each seed, in ⟦minutes⟧ a network.
""",
"READ_F": """
**How to read it.** The validation part makes the final network better than the reference by ⟦points(m(F.loc['one network', 'validation']) - m(H.loc['reference', 'validation']))⟧ points, the test images by ⟦points(m(F.loc['one network', 'test']) - m(H.loc['reference', 'test']))⟧; of these the five changes at equal network and length bring ⟦points(m(F.loc['one network', 'test']) - m(control('test')))⟧ on the test images, while accuracy on the training images falls from ⟦m(control('train'))::.3f⟧ to ⟦m(long_row('with all five', 'train'))::.3f⟧. An average of all networks is one number: its error is that of 10,000 images, about 0.003, and differences between the lines of the table are known better than that, since all see the same images.
""",
"ERRORS": """
Shirt is the weakest class, with recall ⟦m(C.loc['Shirt', 'recall'])::.2f⟧ and precision ⟦m(C.loc['Shirt', 'precision'])::.2f⟧; ⟦C.index[-1].lower()⟧ is the best. One final network, the one of the first seed, counted on the test images:
""",
"READ_E": """
Trousers, bags and the three kinds of shoes are nearly solved. Shirt is missed for T-shirt, pullover and coat, and these are called shirts in turn, so that recall and precision fall together. Two numbers more: how many of all errors stay among these four classes, and whether the network is as sure as it is right (label smoothing makes it modest):
""",
"DOCS": """
| command | what it does | measured here |
| --- | --- | --- |
| `compile(steps_per_execution=20)` | runs 20 steps for one call from Python | a later epoch in ⟦speed('batch 512, steps_per_execution=20', 'seconds a later epoch')::.2f⟧ s instead of ⟦speed('batch 512', 'seconds a later epoch')::.2f⟧ s |
| `compile(jit_compile=True)` | compiles the step with XLA | ⟦speed('batch 512, jit_compile=True', 'seconds a later epoch')::.2f⟧ s instead of ⟦speed('batch 512', 'seconds a later epoch')::.2f⟧ s, on this processor |
| `fit(batch_size=512)` | larger batches than 32 | an epoch ⟦speed('batch 32', 'seconds a later epoch') / speed('batch 512', 'seconds a later epoch')::.1f⟧ times faster; 0.88 on validation ⟦reach('batch 512')⟧ instead of ⟦reach('batch 32')⟧ |
| `schedules.CosineDecay(warmup_target=…)` | a cycle of the learning rate | ⟦-m(E.loc['constant rate 0.001', 'test'])::+.3f⟧ test accuracy; 0.88 ⟦reach('batch 512, a cycle of 6 epochs')⟧ instead of ⟦reach('batch 512')⟧ |
| `optimizers.Adam(use_ema=True)` | averages the weights of the last steps | ⟦m(E.loc['constant rate 0.001, averaged weights', 'test']) - m(E.loc['constant rate 0.001', 'test'])::+.3f⟧ at a constant rate |
| `losses.CategoricalCrossentropy(label_smoothing=0.1)` | asks for less than certainty | ⟦m(E.loc['label smoothing 0.1', 'test'])::+.4f⟧ alone, p = ⟦E.loc["label smoothing 0.1", "Holm's p, test"]⟧ |
| `utils.PyDataset` | changes images while the network trains | a part of the final network |
| `Model.save`, `saving.load_model` | architecture and weights in one file | predictions differ by ⟦loaded⟧ |
| `Layer.quantize("int8")` | weights as 8-bit integers | file ⟦mb / mb8::.1f⟧ times smaller, test accuracy ⟦acc8 - acc::+.4f⟧ |
| `utils.set_random_seed`, `models.clone_model` | a repeatable start; new weights for a network | two runs of a seed differ by ⟦same⟧, of two seeds by ⟦other⟧ |

What an epoch costs says little; what counts is the time to the same accuracy. The timed runs train a two-layer network of 128 neurons until it has 0.88 of the validation images right, compilation included, two seeds each, 40 epochs at most.
""",
"READ_K": """
Seconds depend on the machine and on what else it does. A run that did not reach 0.88 counts with all its epochs. The last two cells check repeatability, saving and quantisation:
""",
"SCORE": """
Figures of others are single results with protocols of their own. The README says that its authors have not tested the results sent to them.
""",
"CONCLUSIONS": """
1. **Width.** From 8 to 512 neurons test accuracy grows from ⟦m(W.loc[8, 'test'])::.3f⟧ to ⟦m(W.loc[512, 'test'])::.3f⟧ and training accuracy from ⟦m(W.loc[8, 'train'])::.3f⟧ to ⟦m(W.loc[512, 'train'])::.3f⟧; every fourfold width brings less.
2. **Depth.** At equal size depth changes little: ⟦at(sizes()[0], 2)::.3f⟧, ⟦at(sizes()[0], 3)::.3f⟧, ⟦at(sizes()[0], 5)::.3f⟧ and ⟦at(sizes()[0], 10)::.3f⟧ on the test images with 2, 3, 5 and 10 layers, ⟦at(sizes()[0], 2, 'train')::.3f⟧, ⟦at(sizes()[0], 3, 'train')::.3f⟧, ⟦at(sizes()[0], 5, 'train')::.3f⟧ and ⟦at(sizes()[0], 10, 'train')::.3f⟧ on the training images.
3. **Optimisers.** Tuned and with one cycle: SGD ⟦opt('tuned, one cycle', 'SGD')::.3f⟧, with momentum ⟦opt('tuned, one cycle', 'SGD + momentum')::.3f⟧, RMSprop ⟦opt('tuned, one cycle', 'RMSprop')::.3f⟧, Adam ⟦opt('tuned, one cycle', 'Adam')::.3f⟧ on the test images (training: ⟦opt('tuned, one cycle', 'SGD', 'train')::.3f⟧, ⟦opt('tuned, one cycle', 'SGD + momentum', 'train')::.3f⟧, ⟦opt('tuned, one cycle', 'RMSprop', 'train')::.3f⟧, ⟦opt('tuned, one cycle', 'Adam', 'train')::.3f⟧); at Keras' defaults they range from ⟦min(opt("Keras' default, constant", o) for o in OPTIMISERS)::.3f⟧ to ⟦max(opt("Keras' default, constant", o) for o in OPTIMISERS)::.3f⟧.
4. **What improved it.** In short runs the learning rate (kept at 0.001 it costs ⟦points(m(E.loc['constant rate 0.001', 'test']))⟧ points); in long ones mirrored and moved images, batch normalisation, label smoothing and weight decay together: ⟦m(F.loc['one network', 'test'])::.4f⟧ against ⟦m(control('test'))::.4f⟧ of the same network without them and ⟦m(H.loc['reference', 'test'])::.4f⟧ of the short reference. Averages over views and networks bring it to ⟦m(F.loc['all networks, ten views', 'test'])::.4f⟧. The share of each part in the long run was not measured here.
5. **Classes.** Recall and precision are lowest for shirts (⟦m(C.loc['Shirt', 'recall'])::.3f⟧ and ⟦m(C.loc['Shirt', 'precision'])::.3f⟧); ⟦100 * tops::.1f⟧ % of the errors stay among shirt, T-shirt, pullover and coat.
6. **Documentation.** `CosineDecay` with a warm-up brings accuracy and time; `quantize("int8")` shrinks the file from ⟦mb::.2f⟧ to ⟦mb8::.2f⟧ MB.

What these runs do not show: one split, one data set, one strength for each change.
""",
"RUSSIAN": """
1. **Ширина.** При росте числа нейронов с 8 до 512 доля верных ответов на тестовой выборке растёт с ⟦m(W.loc[8, 'test'])::.3f⟧ до ⟦m(W.loc[512, 'test'])::.3f⟧, на обучающей — с ⟦m(W.loc[8, 'train'])::.3f⟧ до ⟦m(W.loc[512, 'train'])::.3f⟧. Каждое увеличение в четыре раза даёт всё меньше, а разрыв между результатами на обучающей и тестовой выборках растёт.
2. **Глубина.** При равном числе параметров глубина почти не влияет: ⟦at(sizes()[0], 2)::.3f⟧, ⟦at(sizes()[0], 3)::.3f⟧, ⟦at(sizes()[0], 5)::.3f⟧ и ⟦at(sizes()[0], 10)::.3f⟧ на тестовой выборке при 2, 3, 5 и 10 слоях.
3. **Оптимизаторы.** С подобранной скоростью обучения и одним её циклом: SGD — ⟦opt('tuned, one cycle', 'SGD')::.3f⟧, SGD с моментом — ⟦opt('tuned, one cycle', 'SGD + momentum')::.3f⟧, RMSprop — ⟦opt('tuned, one cycle', 'RMSprop')::.3f⟧, Adam — ⟦opt('tuned, one cycle', 'Adam')::.3f⟧. При значениях Keras по умолчанию — от ⟦min(opt("Keras' default, constant", o) for o in OPTIMISERS)::.3f⟧ до ⟦max(opt("Keras' default, constant", o) for o in OPTIMISERS)::.3f⟧.
4. **Что улучшило результат.** В коротких запусках — скорость обучения: если держать её на 0.001, результат на ⟦points(m(E.loc['constant rate 0.001', 'test']))⟧ процентного пункта ниже, чем с одним циклом. В длинных — вместе отражённые и сдвинутые изображения, пакетная нормализация, сглаживание меток и затухание весов: ⟦m(F.loc['one network', 'test'])::.4f⟧ против ⟦m(control('test'))::.4f⟧ у той же сети без них. Усреднение по десяти вариантам изображения и пяти сетям даёт ⟦m(F.loc['all networks, ten views', 'test'])::.4f⟧.
5. **Матрица ошибок.** Хуже всего распознаётся рубашка: полнота ⟦m(C.loc['Shirt', 'recall'])::.3f⟧, точность ⟦m(C.loc['Shirt', 'precision'])::.3f⟧. Внутри группы «рубашка, футболка, пуловер, пальто» остаётся ⟦100 * tops::.1f⟧ % всех ошибок.
6. **Документация.** `CosineDecay` с разогревом повышает долю верных ответов и экономит время; `quantize("int8")` уменьшает файл с ⟦mb::.2f⟧ до ⟦mb8::.2f⟧ МБ.
""",
}
