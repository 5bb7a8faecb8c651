# Texts of lesson 2. ⟦expression::format⟧ is filled from the executed notebook by lesson02_fill.py (W, D, O, H, E, F, C, K ... are its tables).
TEXTS = {
"FIRST": "⟦m(first('two layers', 'test'))::.3f⟧ on the test images, and the gap to its own training images grows with every epoch",
"ANSWERS": """
- **Width.** Test accuracy rises from ⟦m(W.loc[8, 'test'])::.3f⟧ with 8 neurons to ⟦m(W.loc[512, 'test'])::.3f⟧ with 512, every fourfold width brings less, while the gap to the training images opens: [Width](#Width).
- **Depth.** At equal size the four depths lie within a point of each other, in the order of the table: [Depth](#Depth).
- **Optimisers.** With a tuned rate and one cycle, Adam reaches ⟦opt('tuned, one cycle', 'Adam')::.3f⟧, RMSprop ⟦opt('tuned, one cycle', 'RMSprop')::.3f⟧, plain SGD ⟦opt('tuned, one cycle', 'SGD')::.3f⟧; the rate matters more than the name: [Optimisers](#Optimisers).
- **What improved it.** The cycle of the learning rate in short runs; in long ones changed images with batch normalisation. The final network reaches ⟦m(F.loc['one network', 'test'])::.3f⟧, five together ⟦m(F.loc['all networks, ten views', 'test'])::.3f⟧: [What improved the result](#What-improved-the-result), [The final network](#The-final-network).
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
At Keras' default and constant rate plain SGD ends at ⟦opt("Keras' default, constant", 'SGD')::.3f⟧ on the test images and Adam at ⟦opt("Keras' default, constant", 'Adam')::.3f⟧; with the best of four rates and one cycle they come to ⟦opt('tuned, one cycle', 'SGD')::.3f⟧ and ⟦opt('tuned, one cycle', 'Adam')::.3f⟧, with momentum ⟦opt('tuned, one cycle', 'SGD + momentum')::.3f⟧, RMSprop ⟦opt('tuned, one cycle', 'RMSprop')::.3f⟧. The network is the one of three layers from above; every rate has two seeds and ten epochs, and the best of each optimiser then five.
""",
"READ_O": """
**How to read it.** The rate is chosen by the mean validation accuracy of two seeds, and the printed line says whether it lies inside the rates tried. Most of the distance between the names is distance between default rates: the cycle and a rate of its own bring plain SGD ⟦points(opt('tuned, one cycle', 'SGD') - opt("Keras' default, constant", 'SGD'))⟧ points and Adam ⟦points(opt('tuned, one cycle', 'Adam') - opt("Keras' default, constant", 'Adam'))⟧. Ten epochs are few for plain SGD, which learns slowest. Against Adam, Holm's p on the test images is under 0.05 for: ⟦claimed(OD, 'test')⟧.
""",
"HELPED": """
In runs of ten epochs it is the cycle of the learning rate that counts: a constant rate costs ⟦points(m(E.loc['constant rate', 'test']))⟧ points. What regularises needs time: all five parts of the later recipe together change a short run by ⟦m(E.loc['all five', 'test'])::+.3f⟧, and twice the epochs without them by ⟦m(E.loc['twice the epochs', 'test'])::+.3f⟧. The next section has both together. The reference is the network of the depth table with the best validation accuracy; one thing changes at a time.
""",
"READ_H": """
**How to read it.** The validation part decides. With Holm's p under 0.05 over the table it gains by: ⟦claimed(E, 'validation', +1)⟧; it loses by: ⟦claimed(E, 'validation', -1)⟧. On the test images the same rule gives gains by: ⟦claimed(E, 'test', +1)⟧; losses by: ⟦claimed(E, 'test', -1)⟧. Everything else is not shown here, which is not the same as without effect: each change has one strength, and one length of training.
""",
"FINAL": """
One network of three hidden layers of 512 neurons, trained for 40 epochs with all five changes, reaches ⟦m(F.loc['one network', 'test'])::.4f⟧; the mean over ten views of each image brings it to ⟦m(F.loc['one network, ten views', 'test'])::.4f⟧, five networks together to ⟦m(F.loc['all networks, ten views', 'test'])::.4f⟧. What a short run could not use pays here.

The recipe was chosen beforehand by accuracy on held-out training images alone (eight splits of 55,000 / 5,000, about seventy settings). There the parts depended on each other: moved images made the network worse without batch normalisation, batch normalisation learned the training images by heart without moved ones, and dropout never helped. Here the recipe runs once for each seed, in ⟦minutes⟧ a network.
""",
"READ_F": """
**How to read it.** The validation part makes the final network better than the reference by ⟦points(m(F.loc['one network', 'validation']) - m(H.loc['reference', 'validation']))⟧ points, the test images by ⟦points(m(F.loc['one network', 'test']) - m(H.loc['reference', 'test']))⟧. An average of all networks is one number: its error is that of 10,000 images, about 0.003, and differences between the lines of the table are known better than that, since all see the same images.
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
| `compile(jit_compile=True)` | compiles the step with XLA | ⟦speed('batch 512, jit_compile=True', 'seconds a later epoch')::.2f⟧ s an epoch, after compiling |
| `fit(batch_size=512)` | larger batches than 32 | an epoch ⟦speed('batch 32', 'seconds a later epoch') / speed('batch 512', 'seconds a later epoch')::.1f⟧ times faster, but ⟦speed('batch 512', 'epochs to target')::.0f⟧ epochs instead of ⟦speed('batch 32', 'epochs to target')::.0f⟧ to 0.88 |
| `schedules.CosineDecay(warmup_target=…)` | a cycle of the learning rate | ⟦-m(E.loc['constant rate', 'test'])::+.3f⟧ test accuracy; 0.88 after ⟦speed('batch 512, a cycle of 4 epochs', 'seconds to target')::.1f⟧ s instead of ⟦speed('batch 32', 'seconds to target')::.1f⟧ s |
| `optimizers.Adam(use_ema=True)`, `callbacks.SwapEMAWeights` | averages the weights of the last steps | ⟦m(E.loc['constant rate, averaged weights', 'test']) - m(E.loc['constant rate', 'test'])::+.3f⟧ at a constant rate |
| `losses.CategoricalCrossentropy(label_smoothing=0.1)` | asks for less than certainty | ⟦m(E.loc['label smoothing 0.1', 'test'])::+.4f⟧ alone, p = ⟦E.loc["label smoothing 0.1", "Holm's p, test"]⟧ |
| `utils.PyDataset` | changes images while the network trains | a part of the final network |
| `Model.save`, `saving.load_model` | architecture and weights in one file | predictions differ by ⟦loaded⟧ |
| `Layer.quantize("int8")` | weights as 8-bit integers | file ⟦mb / mb8::.1f⟧ times smaller, test accuracy ⟦acc8 - acc::+.4f⟧ |
| `utils.set_random_seed`, `models.clone_model` | a repeatable start; new weights for a network | two runs of a seed differ by ⟦same⟧, of two seeds by ⟦other⟧ |

What an epoch costs says little; what counts is the time to the same accuracy. The timed runs train a two-layer network of 128 neurons until it has 0.88 of the validation images right, compilation included, three seeds each.
""",
"READ_K": """
Larger batches make an epoch cheaper and need more of them; the cycle, planned for four epochs, gets there soonest. Seconds depend on the machine and on what else it does. The last two cells check repeatability, saving and quantisation:
""",
"SCORE": """
Figures of others are single results with protocols of their own. The README says that its authors have not tested the results sent to them.
""",
"CONCLUSIONS": """
1. **Width.** From 8 to 512 neurons test accuracy grows from ⟦m(W.loc[8, 'test'])::.3f⟧ to ⟦m(W.loc[512, 'test'])::.3f⟧ and training accuracy from ⟦m(W.loc[8, 'train'])::.3f⟧ to ⟦m(W.loc[512, 'train'])::.3f⟧; every fourfold width brings less.
2. **Depth.** At equal size depth changes little: ⟦at(sizes()[0], 2)::.3f⟧, ⟦at(sizes()[0], 3)::.3f⟧, ⟦at(sizes()[0], 5)::.3f⟧ and ⟦at(sizes()[0], 10)::.3f⟧ on the test images with 2, 3, 5 and 10 layers.
3. **Optimisers.** Tuned and with one cycle: SGD ⟦opt('tuned, one cycle', 'SGD')::.3f⟧, with momentum ⟦opt('tuned, one cycle', 'SGD + momentum')::.3f⟧, RMSprop ⟦opt('tuned, one cycle', 'RMSprop')::.3f⟧, Adam ⟦opt('tuned, one cycle', 'Adam')::.3f⟧; at Keras' defaults they range from ⟦min(opt("Keras' default, constant", o) for o in OPTIMISERS)::.3f⟧ to ⟦max(opt("Keras' default, constant", o) for o in OPTIMISERS)::.3f⟧.
4. **What improved it.** In short runs the cycle (a constant rate costs ⟦points(m(E.loc['constant rate', 'test']))⟧ points); in long ones mirrored and moved images, batch normalisation, label smoothing and weight decay together, on a larger network: ⟦m(F.loc['one network', 'test'])::.4f⟧ against ⟦m(H.loc['reference', 'test'])::.4f⟧. Averages over views and networks bring it to ⟦m(F.loc['all networks, ten views', 'test'])::.4f⟧. The share of each part in the long run was not measured here.
5. **Classes.** Recall and precision are lowest for shirts (⟦m(C.loc['Shirt', 'recall'])::.3f⟧ and ⟦m(C.loc['Shirt', 'precision'])::.3f⟧); ⟦100 * tops::.1f⟧ % of the errors stay among shirt, T-shirt, pullover and coat.
6. **Documentation.** `CosineDecay` with a warm-up brings accuracy and time; `quantize("int8")` shrinks the file from ⟦mb::.2f⟧ to ⟦mb8::.2f⟧ MB.

What these runs do not show: one split, one data set, one strength for each change.
""",
"RUSSIAN": """
1. **Ширина.** При росте числа нейронов с 8 до 512 доля верных ответов на тестовой выборке растёт с ⟦m(W.loc[8, 'test'])::.3f⟧ до ⟦m(W.loc[512, 'test'])::.3f⟧, на обучающей — с ⟦m(W.loc[8, 'train'])::.3f⟧ до ⟦m(W.loc[512, 'train'])::.3f⟧. Каждое увеличение в четыре раза даёт всё меньше, а разрыв между выборками увеличивается.
2. **Глубина.** При равном числе параметров глубина значит мало: ⟦at(sizes()[0], 2)::.3f⟧, ⟦at(sizes()[0], 3)::.3f⟧, ⟦at(sizes()[0], 5)::.3f⟧ и ⟦at(sizes()[0], 10)::.3f⟧ на тестовой выборке при 2, 3, 5 и 10 слоях.
3. **Оптимизаторы.** С подобранной скоростью обучения и одним её циклом: SGD — ⟦opt('tuned, one cycle', 'SGD')::.3f⟧, SGD с моментом — ⟦opt('tuned, one cycle', 'SGD + momentum')::.3f⟧, RMSprop — ⟦opt('tuned, one cycle', 'RMSprop')::.3f⟧, Adam — ⟦opt('tuned, one cycle', 'Adam')::.3f⟧. Скорость обучения важнее выбора оптимизатора.
4. **Что улучшило результат.** В коротких запусках — цикл скорости обучения: постоянная скорость стоит ⟦points(m(E.loc['constant rate', 'test']))⟧ процентного пункта. В длинных — вместе отражённые и сдвинутые изображения, пакетная нормализация, сглаживание меток и затухание весов: ⟦m(F.loc['one network', 'test'])::.4f⟧ против ⟦m(H.loc['reference', 'test'])::.4f⟧. Усреднение по десяти видам изображения и пяти сетям даёт ⟦m(F.loc['all networks, ten views', 'test'])::.4f⟧.
5. **Матрица ошибок.** Хуже всего распознаётся рубашка: полнота ⟦m(C.loc['Shirt', 'recall'])::.3f⟧, точность ⟦m(C.loc['Shirt', 'precision'])::.3f⟧. Внутри группы «рубашка, футболка, пуловер, пальто» остаётся ⟦100 * tops::.1f⟧ % всех ошибок.
6. **Документация.** `CosineDecay` с разогревом повышает долю верных ответов и экономит время; `quantize("int8")` уменьшает файл с ⟦mb::.2f⟧ до ⟦mb8::.2f⟧ МБ.
""",
}
