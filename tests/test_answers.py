"""Parsing answers: the replies that models write, and that nothing is guessed."""

from itertools import product
from typing import cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from icl_loop.core.errors import InputError
from icl_loop.core.records import Outcome
from icl_loop.tasks.answers import ParsedAnswer, final_text, parse_answer
from icl_loop.tasks.prompts import PromptSet, open_prompt_set, shipped

NUMERALS = tuple("0123456789")
CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
CAPITALS = tuple("ABCDEFGHI")
KANA = tuple("おきすつなはまやれを")
OUTCOMES = {"unreadable", "out_of_set", "refusal", "truncated"}


def _check(text: str, labels: tuple[str, ...], expected: str) -> None:
    """Check that `text` is parsed as `expected`: a label, or the outcome where there is none."""
    parsed = parse_answer(text, labels)
    if expected in OUTCOMES:
        assert parsed == ParsedAnswer(None, cast("Outcome", expected))
    else:
        assert parsed == ParsedAnswer(expected, "ok")


# ---- replies, each with its label or its outcome -------------------------------------------

DIGITS: list[tuple[str, str]] = [
    ('There is no doubt: a "3".', "3"),
    ('No doubt it is a "3".', "3"),
    ("The digit shown is a 4.", "4"),
    ("Last time the right label was 3.\n\nAnswer: 8", "8"),
    ("Answer: 6\n\nExplanation: a loop at the bottom, unlike 8 or 0.", "6"),
    ("The answer could be 6 or 8, but I choose 6.\nAnswer: 6", "6"),
    ("Answer: 6 (confidence: 0.8)", "6"),
    ("...", "unreadable"),
    ("Answer:", "unreadable"),
    ("Your answer was correct.", "unreadable"),
    ("Array:\n00000\n00500", "unreadable"),
    ("3", "3"),
    ("３", "3"),
    ("Answer: 3", "3"),
    ("Answer: 3.", "3"),
    ("Answer is 3", "3"),
    ("Answer:3", "3"),
    ("answer = 3", "3"),
    ("Answer - 3", "3"),
    ("Answer – 3", "3"),
    ("**Answer:** 3", "3"),
    ("**Answer: 3**", "3"),
    ("*Answer:* *3*", "3"),
    ("_Answer: 3_", "3"),
    ("### Answer: 3", "3"),
    ("### Answer\n3", "3"),
    ("### Final Answer\n\n**3**", "3"),
    ("> Answer: 3", "3"),
    ("- Answer: 3", "3"),
    ("1. Answer: 3", "3"),
    ("`Answer: 3`", "3"),
    ("```\nAnswer: 3\n```", "3"),
    ("Answer: `3`", "3"),
    ('Answer: "3"', "3"),
    ("Answer: “3”", "3"),
    ("Answer: <3>", "3"),
    ("Answer: [3]", "3"),
    ("Answer: (3)", "3"),
    ("Answer: {3}", "3"),
    ("Answer: the digit 3", "3"),
    ("Answer: digit 3", "3"),
    ("Answer: It is a 3.", "3"),
    ("Answer: The digit is 3.", "3"),
    ("Answer: I think this is a 3.", "3"),
    ("Answer: three", "3"),
    ("Answer: three, because it has two curves.", "3"),
    ("Answer: Three (3)", "3"),
    ("Answer: 3 (three)", "3"),
    ("Answer: 3 (not 5)", "3"),
    ("Answer: 3, because it has two curves.", "3"),
    ("Answer: 3 with high confidence", "3"),
    ("Answer: probably 3", "3"),
    ("Answer: maybe 3?", "3"),
    ("Answer: Label: 3", "3"),
    ("Answer: 12", "out_of_set"),
    ("Answer: 3.5", "out_of_set"),
    ("Answer: 3.0", "3"),
    ("Respuesta: 3", "3"),
    ("Option 3.", "3"),
    ("It is not 3 but 5.", "5"),
    ("Answer: cat", "out_of_set"),
    ("Answer: <label>", "out_of_set"),
    ("Answer: <label>\nAnswer: 3", "3"),
    ("Answer: 3 or 5", "unreadable"),
    ("Answer: 3/5", "unreadable"),
    ("Answer: 3 5", "unreadable"),
    ("Answer: 3, 5", "unreadable"),
    ("Answer: either 3 or 5", "unreadable"),
    ("Answer: 3\nAnswer: 5", "unreadable"),
    ("Answer: 3\n\nWait, let me look again.\n\nAnswer: 5", "5"),
    ("Answer: 3\nCorrection: Answer: 5", "5"),
    ("Answer: 3\n\nActually, answer: 5", "5"),
    ("The correct answer was 3. Now: Answer: 5", "5"),
    ("The correct answer was 3.\nAnswer: 5", "5"),
    ("Sure! The answer is: 3", "3"),
    ("3 (not 5)", "3"),
    ("3, not 5.", "3"),
    ("~~3~~ 5", "5"),
    ("Answer: ~~3~~ 5", "5"),
    ("<b>3</b>", "3"),
    ("Answer: <strong>3</strong>", "3"),
    ("Answer: ٣", "3"),
    ("३", "3"),
    ("3 is my answer.", "3"),
    ("I think 3 is the right answer", "3"),
    ("3 is the number of loops.", "unreadable"),
    ("Looks like a 3.", "3"),
    ("The left side looks like a 3.", "unreadable"),
    ("I would label this as 3", "3"),
    ("Let me go with 3", "3"),
    ("Answer: not 3", "unreadable"),
    ("Answer: not 3 but 5", "5"),
    ("Answer: I cannot tell.", "refusal"),
    ("Answer: unknown", "out_of_set"),
    ("Answer: I don't know", "unreadable"),
    ("It looks like a 5. Answer: 3", "3"),
    ("The answer is 3.", "3"),
    ("The answer is: 3", "3"),
    ("The answer is **3**.", "3"),
    ("The answer is clearly 3.", "3"),
    ("The answer must be 3.", "3"),
    ("So the final answer is 3.", "3"),
    ("Thus, the answer is $\\boxed{3}$.", "3"),
    ("\\boxed{3}", "3"),
    ("$$\\boxed{3}$$", "3"),
    ("(1) loops: 0 (2) ink: 9. Hence \\boxed{3}", "3"),
    ("\\boxed{\\text{3}}", "3"),
    ("My final answer is 3", "3"),
    ("My answer: 3", "3"),
    ("My best guess is 3.", "3"),
    ("Final answer: 3", "3"),
    ("Prediction: 3", "3"),
    ("Label: 3", "3"),
    ("Output: 3", "3"),
    ("Digit: 3", "3"),
    ("name(array) -> 3", "3"),
    ("name(array) = 3", "3"),
    ('{"label": "3"}', "3"),
    ('{"label": 3}', "3"),
    ('{"answer": "3", "confidence": 0.9}', "3"),
    ('{"digit": 2, "background": 0}', "2"),
    ('```json\n{\n  "label": "3"\n}\n```', "3"),
    ('{"reasoning": "values 0 and 9", "label": "3"}', "3"),
    ("<answer>3</answer>", "3"),
    ('<think>perhaps "5"? no</think>\nIt is a "3".', "3"),
    ("<think>\nAnswer: 5\n</think>\nAnswer: 3", "3"),
    ("The picture has two loops.\n\n3", "3"),
    ("The picture has two loops.\n\n**3**", "3"),
    ("3\n\nThe picture has an open left side.", "3"),
    ("0 0 0 5\n0 0 5 0\n3", "unreadable"),
    ("5-8\n7\n7\n6", "unreadable"),
    ("It's a 3.", "3"),
    ("It is a 3", "3"),
    ("This is 3.", "3"),
    ("I think it's a 3!", "3"),
    ("I'd say 3.", "3"),
    ("I would go with 3.", "3"),
    ("I see a 3 here.", "3"),
    ("I classify this as 3.", "3"),
    ("It can be recognized as a 3.", "3"),
    ("The image shows a handwritten 3.", "3"),
    ("The image shows the digit 3.", "3"),
    ('The image shows the digit "3".', "3"),
    ("The image shows the number three.", "unreadable"),
    ("The digit is three.", "3"),
    ("This looks like the number 5.", "5"),
    ("That is a 20 x 20 array.", "unreadable"),
    ("This is a 5 x 5 block.", "unreadable"),
    ("It is not a 3.", "unreadable"),
    ("It is not a 3, it is a 5.", "5"),
    ('It\'s not "3" but "5".', "5"),
    ('It cannot be "3"; it must be "5".', "5"),
    ('It isn\'t a "3". It is a "5".', "5"),
    ('Rather than "3", I see "5".', "5"),
    ("It is neither 3 nor 5.", "unreadable"),
    ('It could be "3" or "5".', "unreadable"),
    ("It is a 3 or a 5.", "unreadable"),
    ("It looks like a 3, but it might be a 5.", "unreadable"),
    ("It looks like a 3, but not a 5.", "3"),
    ("The number of rows is 20.", "unreadable"),
    ("Row 3 has ink.", "unreadable"),
    ("The ink in row [3] ends.", "unreadable"),
    ("Values are 0.3 0.9", "unreadable"),
    ("0.3 0.9", "unreadable"),
    ("0.3", "unreadable"),
    ("1 0 0 3", "unreadable"),
    ("I'm sorry, I can't help with that.", "refusal"),
    ("I am unable to determine the digit.", "refusal"),
    ("", "unreadable"),
    ("12", "out_of_set"),
    ("The digit is 12.", "out_of_set"),
    ("Digits 0 to 9 are possible.", "unreadable"),
    ('The digits "0" to "9" are possible; here I see a "4".', "4"),
    ("The labels are 0, 1, 2, 3.", "unreadable"),
]
BACKGROUND: list[str] = [
    'The image shows the digit "2" with background values of 0.',
    'The image shows "2" with background values of 0.',
    "The image shows '2' with background values of \"0\".",
    "The image shows [2] with background values of 0.",
    "The image shows [2] with background values (0).",
    "The picture shows (2), the background (0) being dark.",
    "The image shows the number [2] on a background of 0s.",
    "The image shows “2” surrounded by 0s.",
    'The image shows a "2" where "0" is the background.',
    '"0" is the background and "2" is the digit.',
    "The digit 2 is visible; values of 0 are background.",
    "The digit 2, with background values of 0, is visible.",
    "With background values of 0, the digit is 2.",
    'With background values of 0, the picture shows the digit "2".',
    "The background is 0, and the number is (2).",
    'Given the 0 background, this is "2".',
    'It shows "2" in values from "0" to "9".',
    "The shape of '2' stands out from '0's.",
    "The picture shows the digit 2 (background values are 0).",
    'The picture shows "2" (0 = background).',
    'The picture shows "2" ("0" = background).',
    "A digit [2] is formed by values above 0 (0).",
    "I see the digit ‘2’ on a background of values (0).",
    "The digit is <2>, with 0s in the background.",
    'The background pixels are "0" and the digit is "2".',
    "数字の「2」が描かれていて、背景の値は0です。",
    "背景の値は0で、数字は「2」です。",
    "この画像は「２」を表し、背景は「０」です。",
    "背景値（0）の中に（2）が見えます。",
    "背景の0の中に「2」が浮かびます。",
    "「0」は背景で、「2」が描かれています。",
    "値が0の部分は背景で、描かれているのは［2］です。",
    "数字の2です。背景は0です。",
    "これは数字の２です。",
    "0は背景の値で、画像は2を表しています。",
    "この絵は『2』です。背景の値は「0」です。",
    '絵は"2"で、背景は0です。',
    "背景の画素はすべて0です。数字は2です。",
    "画素の値は0や9ですが、数字「2」が見えます。",
    'With background values of 0, "2" is shown.',
    'Most pixels are background. "2" is what remains.',
    "背景は0、「2」が見えます。",
]
JAPANESE: list[tuple[str, str]] = [
    ("答え：3", "3"),
    ("答え：３", "3"),
    ("答え: 3", "3"),
    ("答え：「3」", "3"),
    ("答え：<3>", "3"),
    ("答え：3です。", "3"),
    ("答え：３です", "3"),
    ("答えは3です。", "3"),
    ("答えは「3」です。", "3"),
    ("答えは数字の3です。", "3"),
    ("答えは三です。", "3"),
    ("答え：三", "3"),
    ("最終的な答えは3です。", "3"),
    ("最終回答：3", "3"),
    ("回答: 3", "3"),
    ("解答：３", "3"),
    ("ラベル：3", "3"),
    ("予測：3", "3"),
    ("したがって、答えは3です。", "3"),
    ("線は丸い。したがって答えは3です。", "3"),
    ("**答え：３**", "3"),
    ("【3】", "3"),
    ("3です。", "3"),
    ("3だと思います。", "3"),
    ("これは3だと思います。", "3"),
    ("これは「3」だと思います。", "3"),
    ("3に見えます。", "3"),
    ("3ではなく5です。", "5"),
    ("3ではなく「5」です。", "5"),
    ("「3」ではなく「5」です。", "5"),
    ("「3」ではありません。", "unreadable"),
    ("「3」か「5」です。", "unreadable"),
    ("3か5です。", "unreadable"),
    ("答え：3か5", "unreadable"),
    ("答え：3または5", "unreadable"),
    ("答え：3\n答え：5", "unreadable"),
    ("答え：12", "out_of_set"),
    ("答え：<ラベル>", "out_of_set"),
    ("申し訳ありませんが、判断できません。", "refusal"),
    ("答え：わかりません", "refusal"),
    ("これは12行の配列です。", "unreadable"),
    ("背景は0です。", "unreadable"),
    ("候補は3つです。", "unreadable"),
    ("線が2本あります。", "unreadable"),
    ("左側は開いていて、曲線が二つあります。\n\n答え：３", "3"),
    ("配列の0.3と0.9の値から、3と判断します。", "3"),
]
WORDS: list[tuple[str, str]] = [
    ("Answer: Shirt", "Shirt"),
    ("Answer: shirt", "Shirt"),
    ("Answer: T-shirt/top", "T-shirt/top"),
    ("Answer: T-Shirt/Top.", "T-shirt/top"),
    ("Answer: T‑shirt/top", "T-shirt/top"),
    ('Answer: "T-shirt/top"', "T-shirt/top"),
    ("Answer: T-shirt", "out_of_set"),
    ("Answer: Ankle boot", "Ankle boot"),
    ("Answer: **Ankle  boot**", "Ankle boot"),
    ("Answer: an ankle boot", "Ankle boot"),
    ("Answer: <Ankle boot>", "Ankle boot"),
    ("答え：Ankle boot", "Ankle boot"),
    ("答え：「Ｓｈｉｒｔ」", "Shirt"),
    ("It is an ankle boot.", "Ankle boot"),
    ("This is a T-shirt/top, not a Shirt.", "T-shirt/top"),
    ("The picture shows a shirt.", "Shirt"),
    ("It is a dress or a coat.", "unreadable"),
    ("It is not a dress; it is a coat.", "Coat"),
    ("Answer: Dress\n\nThe picture has long sleeves.", "Dress"),
    ("Answer: Shirt or T-shirt/top", "unreadable"),
    ('The item is a "Bag".', "Bag"),
    ("The shirtless bagpipe player", "unreadable"),
    ('{"label": "Ankle boot"}', "Ankle boot"),
    ("Sneaker", "Sneaker"),
    ("ｓｎｅａｋｅｒ", "Sneaker"),
    ("これは「Coat」です。", "Coat"),
    ("Answer: boot", "out_of_set"),
    ("Answer: ankle_boot", "Ankle boot"),
    ("Answer: leather sandal", "Sandal"),
    ("Answer: no dress", "unreadable"),
    ("Answer: Ankle-boot", "Ankle boot"),
    ("My pick: the coat", "unreadable"),
]
LETTERS: list[tuple[str, str]] = [
    ("Answer: A", "A"),
    ("Answer: a", "A"),
    ('Answer: "I"', "I"),
    ("I think it is a B.", "B"),
    ("I see a round shape.", "unreadable"),
    ("It is a\nround shape", "unreadable"),
    ("The letter is a B.", "B"),
    ('The letter I see is "B".', "B"),
    ("The letter is A.", "A"),
    ("Answer: B, a letter with two bowls", "B"),
    ("A", "A"),
    ("I", "I"),
    ("A picture of a house.", "unreadable"),
    ("Answer: A, because it has a bar.", "A"),
    ("Answer: I'm not sure", "unreadable"),
    ("Answer: a guess", "unreadable"),
]

KANA_TEXTS = [
    ("答え：き", "き"),
    ("答えはきです。", "き"),
    ("これは「き」です。", "き"),
    ("きだと思います。", "き"),
    ("きれいな曲線です。", "unreadable"),
    ("すきです。", "unreadable"),
    ("これは「きれい」です。", "unreadable"),
]


IRIS = ("setosa", "versicolor", "virginica")
TONES = ("positive", "negative", "neutral")
TOPICS = ("card_arrival", "card lost", "top-up", "other")
TWO = ("A", "B")
STYLES: list[tuple[tuple[str, ...], str, str]] = [
    # digits, in the styles of many models and in other languages
    (NUMERALS, "The correct digit is most likely **7**.", "7"),
    (
        NUMERALS,
        "1. The top is flat.\n2. There is a diagonal.\n\nThis matches the digit **7**.",
        "7",
    ),
    (NUMERALS, "$\\text{Answer: } 7$", "7"),
    (NUMERALS, "\\[\n\\boxed{7}\n\\]", "7"),
    (NUMERALS, "The final answer is: $\\boxed{7}$. I hope it is correct.", "7"),
    (NUMERALS, "#### 7", "7"),
    (NUMERALS, "{'answer': '7'}", "7"),
    (NUMERALS, '{"answer": 7, "second_choice": 1}', "7"),
    (NUMERALS, "<label>7</label>", "7"),
    (NUMERALS, "Answer:\n```\n7\n```", "7"),
    (NUMERALS, "✅ Answer: 7️⃣", "7"),
    (NUMERALS, "Ans: 7", "7"),
    (NUMERALS, "Answer: digit seven", "7"),
    (NUMERALS, "Predicted digit: 7", "7"),
    (NUMERALS, "Conclusion: 7", "7"),
    (NUMERALS, "Is it a 1 or a 7? I'd say 7.", "7"),
    (NUMERALS, "Could be a 1 or 7; I'm going with 7.", "7"),
    (NUMERALS, "I'm guessing 7.", "7"),
    (NUMERALS, "Earlier answers: 3, 5, 2.\nAnswer: 7", "7"),
    (NUMERALS, "Die Antwort ist 7.", "7"),
    (NUMERALS, "Das ist eine 7.", "7"),
    (NUMERALS, "La réponse est 7.", "7"),
    (NUMERALS, "La respuesta es 7.", "7"),
    (NUMERALS, "最终答案：**7**", "7"),
    (NUMERALS, "答案是7。", "7"),
    (NUMERALS, "정답: 7", "7"),
    (NUMERALS, "Ответ: 7", "7"),
    (NUMERALS, "おそらく7です。", "7"),
    (NUMERALS, "「7」に見えますが、「1」の可能性もあります。", "unreadable"),
    (NUMERALS, "Answer: 7 (or possibly 1)", "unreadable"),
    (NUMERALS, "The width is 8.", "unreadable"),
    (NUMERALS, "The stroke ends, so 3 rows are left.", "unreadable"),
    # words
    (IRIS, "The species is Iris versicolor.", "versicolor"),
    (IRIS, "Iris Setosa", "setosa"),
    (IRIS, "Species: virginica", "virginica"),
    (IRIS, "This flower is most likely virginica.", "virginica"),
    (IRIS, "Petal length is high, so virginica.", "virginica"),
    (IRIS, "The labels are setosa, versicolor and virginica. This one is virginica.", "virginica"),
    (IRIS, "Labels: setosa, versicolor, virginica\nAnswer: virginica", "virginica"),
    (IRIS, "Between versicolor and virginica, I choose virginica.", "virginica"),
    (IRIS, "versicolor or virginica? I'd say virginica", "virginica"),
    (IRIS, "virginica\n\nExplanation: the petals are long, unlike setosa.", "virginica"),
    (IRIS, "virginica, because setosa is smaller", "virginica"),
    (IRIS, "More like virginica than versicolor.", "unreadable"),
    (IRIS, "The petals are wide, so virginica is unlikely.", "unreadable"),
    (IRIS, "Answer: virg", "out_of_set"),
    (IRIS, "Iris-setosa", "setosa"),
    (IRIS, "Answer: iris_virginica", "virginica"),
    (IRIS, "This is Iris-versicolor, as its petals show.", "versicolor"),
    (IRIS, "Iris-setosa or Iris-virginica", "unreadable"),
    (IRIS, "Answer: Iris setosa (not Iris virginica)", "setosa"),
    (IRIS, "It is not a setosa but a virginica.", "virginica"),
    (TONES, "Answer: non-positive", "out_of_set"),
    (("class1", "class2", "class10"), "Answer: Class 10", "class10"),
    (("Label 1", "Label 2"), "Answer: label2", "Label 2"),
    (TONES, "The tone is positive.", "positive"),
    (TONES, "Sentiment: Negative", "negative"),
    (TONES, "This review is negative, not positive.", "negative"),
    (TONES, "I would classify this text as neutral.", "neutral"),
    (TONES, "The tone is positive at first, but overall negative.", "unreadable"),
    (TONES, "The start is positive; then comes something negative.", "unreadable"),
    (TONES, "I said positive before, and the feedback was negative.", "unreadable"),
    (TONES, "The review is hardly positive.", "unreadable"),
    (TONES, "Previous answer: negative", "unreadable"),
    (TOPICS, "Intent: card_lost", "card lost"),
    (TOPICS, "Answer: Card-Arrival", "card_arrival"),
    (TOPICS, "Answer: card\\_arrival", "card_arrival"),
    (TOPICS, "`card_arrival`", "card_arrival"),
    (TOPICS, "The intent is TOP_UP.", "top-up"),
    (TOPICS, "Answer: cardarrival", "out_of_set"),
    # letters
    (TWO, "Answer: A because it is English", "A"),
    (TWO, "A since it ends in -ing", "A"),
    (TWO, "Answer: A = English", "A"),
    (TWO, "I think A is the answer", "A"),
    (TWO, "Answer: A word of Latin origin", "unreadable"),
    (TWO, "B. The word is German.", "B"),
    (TWO, "A resposta é B", "B"),
    (TWO, "It's A", "A"),
    (TWO, "\\boxed{A}", "A"),
    (TWO, '{"answer": "A"}', "A"),
    (TWO, "<answer>a</answer>", "A"),
    (TWO, "It's a lot.", "unreadable"),
    (TWO, "Answer: A or B", "unreadable"),
    (TWO, "A or B? I'd say B.", "B"),
    (TWO, "B: because it is German", "B"),
    (TWO, "B - German", "B"),
    (TWO, "A. The word begins like\nB. It ends like", "unreadable"),
    (TWO, "A\nB", "unreadable"),
    (("yes", "no"), "(no reply)", "unreadable"),
    (("yes", "no"), "I have no idea.", "unreadable"),
]


@pytest.mark.parametrize(("labels", "text", "expected"), STYLES)
def test_styles(labels: tuple[str, ...], text: str, expected: str) -> None:
    """A reply is parsed as a careful reader takes it, in the style of whatever model."""
    _check(text, labels, expected)


THOUGHTS = [
    ("<think>\nAnswer: 5", "unreadable"),
    ("<think>Answer: 5</think>", "unreadable"),
    ("Perhaps.\nAnswer: 5\n</think>\n\nAnswer: 3", "3"),
    ("<think>first</think>Answer: 3\n<think>or 5", "3"),
    ("<think>5</think>Answer: 3</think>", "3"),
    ("<thinking>\nAnswer: 5\n</thinking>\n3", "3"),
    ('<reasoning effort="high">Answer: 5</reasoning>3', "3"),
    ("[THINK]Answer: 5[/THINK]3", "3"),
    ("◁think▷Answer: 5◁/think▷3", "3"),
    ("<seed:think>Answer: 5</seed:think>It is a 3.", "3"),
    ("<seed:cot_budget_reflect>5 tokens used</seed:cot_budget_reflect>3", "3"),
    ("<|START_THINKING|>Answer: 5<|END_THINKING|><|START_RESPONSE|>3<|END_RESPONSE|>", "3"),
    ("<|begin_of_thought|>5<|end_of_thought|><|begin_of_solution|>3<|end_of_solution|>", "3"),
    ("<|channel|>analysis<|message|>5<|end|><|start|>assistant<|channel|>final<|message|>3", "3"),
    ("<|channel|>commentary to=a<|message|>7<|call|><|channel|>final<|message|>3<|return|>", "3"),
    ("<|channel|>analysis<|message|>5<|end|><|channel|>final <|constrain|>x<|message|>3", "3"),
    ("It may be 5.<|end|><|start|>assistant<|channel|>final<|message|>3", "3"),
    ("<|channel|>analysis<|message|>Answer: 5", "unreadable"),
    ("analysisAnswer: 5.assistantfinalAnswer: 3", "3"),
    ("<|channel>thought\nAnswer: 5<channel|>3<turn|>", "3"),
    ("<think>5</think>\n<answer>\n3\n</answer>", "3"),
    ("<Thought>Answer: 5</Thought>\n<Output>3</Output>", "3"),
    ("Here is my thought process:\nAnswer: 5\n\nHere is my response:\n3", "3"),
    ("<|think|>Answer: 5<|end|><|begin|>assistant<|content|>3<|end|>", "3"),
    ("<unused94>thought\nAnswer: 5<unused95>3", "3"),
    (
        "Here are my reasoning steps:\nAnswer: 5\n[BEGIN FINAL RESPONSE]\n3\n[END FINAL RESPONSE]",
        "3",
    ),
    ("Answer: 5?\n[BEGIN FINAL RESPONSE]\n3", "3"),
    ("Here are my reasoning steps:\nAnswer: 5", "unreadable"),
    ('The picture has "<think>" and `</think>` written on it.\nAnswer: 3', "3"),
]
INVENTED_TURNS = [
    "Answer: 3\n\nYour answer was correct.\n\nArray:\n00110\n\nAnswer: 5",
    "Answer: 3\nFeedback: incorrect.\nAnswer: 5",
    "Answer: 3\nuser\nYour answer was incorrect.\nassistant\nAnswer: 7",
    "Answer: 3<|im_end|>\n<|im_start|>user\nNo.\n<|im_start|>assistant\nAnswer: 7",
    "答え：3\n\n配列：\n00110\n\n答え：5",
    "Answer: 3\n\nIndeed.\n\nSee this one: 00110\n\nAnswer: 5",
    "3\n\nIndeed.\n\nAnswer: 5",
    "As the earlier ones.\nAnswer: 3\n\nIndeed.\n\nSee this one: 01\n\nAnswer: 5",
    "Answer: 3<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nNo<|eot_id|>Answer: 7",
    "Answer: 3<end_of_turn>\n<start_of_turn>user\nNo\n<start_of_turn>model\nAnswer: 7",
    "Answer: 3</s>\n[INST] next [/INST] Answer: 7",
    "Answer: 3assistant\n\nAnswer: 7",
    "Answer: 3\n\nIndeed.\n\nSee this one: as above\n\nAnswer: 5",
    "Answer: 3\n\n### Instruction:\nnext\n\n### Response:\nAnswer: 7",
    "Answer: 3<｜end▁of▁sentence｜><｜User｜>next<｜Assistant｜>Answer: 7",
    "It is a 3.<|im_end|>\n<|im_start|>user\nNo.<|im_end|>\n<|im_start|>assistant\n7",
    "Answer: 3\n" + "\nIndeed.\n\nSee this one: 00110\n\nAnswer: 5\n" * 2_000,
]
OPENINGS = ("Indeed.", "Your answer was {label}.", "See this one: {sample}")
QUOTED = [
    'The text begins with "<|im_start|>user" and looks like a chat.\nAnswer: 3',
    "The text is <|im_start|>user hello<|im_end|>, so it is chat.\nAnswer: 3",
    "Indeed.\n\nAnswer: 3",
    "The turns so far:\n\nSee this one: 01\nAnswer: 5\nIndeed.\n\nNow 11 is shorter.\nAnswer: 3",
    "Your answer was correct.\nAnswer: 3",
    "User: wrote this.\nAnswer: 3",
    "<|im_start|>assistant\nAnswer: 3<|im_end|>",
    "Answer: 5\n\nIndeed? No, wait.\n\nAnswer: 3",
]


@pytest.mark.parametrize(("text", "expected"), THOUGHTS)
def test_thoughts(text: str, expected: str) -> None:
    """Marked thoughts are ignored; thoughts that never end leave no answer."""
    _check(text, NUMERALS, expected)


@pytest.mark.parametrize("text", INVENTED_TURNS)
def test_invented_turns(text: str) -> None:
    """If the model goes on to invent the next turn, its first answer counts, and is all that is shown."""
    assert parse_answer(text, NUMERALS, "stop", openings=OPENINGS) == ParsedAnswer("3", "ok")
    assert parse_answer(text, NUMERALS, "length", openings=OPENINGS) == ParsedAnswer("3", "ok")
    final = final_text(text, NUMERALS, openings=OPENINGS)
    assert final.goes_on
    assert final.text.splitlines()[-1] in {"Answer: 3", "答え：3", "3", "It is a 3."}


@pytest.mark.parametrize("text", QUOTED)
def test_quoted_turns(text: str) -> None:
    """What begins a turn does not end a reply that has not answered yet."""
    assert parse_answer(text, NUMERALS, openings=OPENINGS) == ParsedAnswer("3", "ok")


@pytest.mark.parametrize(
    ("text", "thoughts", "said"),
    [
        ("Answer: 3\n", "", "Answer: 3\n"),
        (
            "<think>\nA loop.\n</think>\n\nIt is closed.\nAnswer: 3",
            "A loop.",
            "It is closed.\nAnswer: 3",
        ),
        ("<think>\nA loop.", "A loop.", ""),
        ("<think>a</think>b<think>c</think>d", "a\nc", "bd"),
        ("<|channel|>analysis<|message|>A loop.<|end|>", "A loop.", ""),
        ("Answer: 3<|im_end|>", "", "Answer: 3"),
        ("<s>Answer: 3</s>", "", "Answer: 3"),
        ("Answer: 3<pad><pad>", "", "Answer: 3"),
        ("<|im_start|>assistant\nAnswer: 3<|endoftext|>", "", "Answer: 3"),
        ("Assistant: Answer: 3", "", "Answer: 3"),
        (
            "The text says `</think>` and '<|im_end|>'.",
            "",
            "The text says `</think>` and '<|im_end|>'.",
        ),
    ],
)
def test_final_text(text: str, thoughts: str, said: str) -> None:
    """The final text is the reply without thoughts and special tokens; quoted ones are kept."""
    final = final_text(text, NUMERALS)
    assert (final.thoughts, final.text) == (thoughts, said)


@pytest.mark.parametrize(("text", "expected"), [*DIGITS, *JAPANESE])
def test_digits(text: str, expected: str) -> None:
    """A digit is the answer where it is stated, named or quoted, and no other digit is."""
    _check(text, NUMERALS, expected)


@pytest.mark.parametrize(("text", "expected"), WORDS)
def test_words(text: str, expected: str) -> None:
    """A label of several words is matched as a whole, in any case and width."""
    _check(text, CLOTHES, expected)


@pytest.mark.parametrize(("text", "expected"), LETTERS)
def test_letters(text: str, expected: str) -> None:
    """The labels "A" and "I" count only where they cannot be words."""
    _check(text, CAPITALS, expected)


@pytest.mark.parametrize(("text", "expected"), KANA_TEXTS)
def test_kana(text: str, expected: str) -> None:
    """A Japanese label is not found inside a longer word, although there are no spaces."""
    _check(text, KANA, expected)


@pytest.mark.parametrize("text", BACKGROUND)
def test_background_values(text: str) -> None:
    """The value of background pixels is not mistaken for the answer."""
    _check(text, NUMERALS, "2")


MARKS = ['"2"', "'2'", "[2]", "(2)", "“2”", "‘2’", "「2」", "『２』", "（２）", "<2>", "**'2'**"]
ENGLISH = [
    *("The image shows {}", "I see the digit {}", "The picture depicts the number {}"),
    *("The array represents {}", "The recovered picture is clearly {}", "The shape is {}"),
]
ENGLISH_BACKGROUND = [
    *(" with background values of 0.", " with background values (0).", " surrounded by 0s."),
    *(", and the background is 0.", "; the background values are '0'.", " (background: 0)."),
    *(' where "0" stands for the background.', " while all other pixels are (0)."),
    *(" on a dark background (0).", " and zeros (0) around it.", '. Values of "0" are background.'),
]
NIHONGO = [
    *("この画像は{}を表しています", "数字{}が描かれています", "数字の{}に見えます"),
    *("絵は{}です", "これは{}だと思います", "配列から{}が読み取れます"),
]
NIHONGO_BACKGROUND = [
    *("。背景の値は0です。", "。背景は「0」です。", "が、背景の画素は（0）です。"),
    *("。０は背景です。", "。「0」は背景の値です。", "。値が0の画素は背景です。", "（背景は0）。"),
]
IN_FRONT = [
    "With background values of 0, ",
    'The background is "0", and ',
    "The values range from 0 to 9; ",
]
IN_FRONT_JA = ["背景の値は0で、", "背景は「0」ですが、", "背景値（0）の中に、", "0を背景として、"]


@pytest.mark.parametrize("mark", MARKS)
def test_background_values_in_all_combinations(mark: str) -> None:
    """Background values are ignored in every combination of quotes and phrases."""
    sentences = [
        *(said + rest for said, rest in product(ENGLISH, ENGLISH_BACKGROUND)),
        *(said + rest for said, rest in product(NIHONGO, NIHONGO_BACKGROUND)),
        *(front + said + "." for front, said in product(IN_FRONT, ENGLISH)),
        *(front + said + "。" for front, said in product(IN_FRONT_JA, NIHONGO)),
    ]
    assert [
        text for text in sentences if parse_answer(text.format(mark), NUMERALS).answer != "2"
    ] == []


@pytest.mark.parametrize("prompts", shipped())
@pytest.mark.parametrize("text", ["Answer: 3", "", "The digit is"])
def test_truncated_and_filtered_replies(prompts: str, text: str) -> None:
    """A truncated or filtered reply has no answer, whatever its text."""
    form = open_prompt_set(prompts).answer
    assert parse_answer(text, NUMERALS, "length", form).outcome == "truncated"
    assert parse_answer(text, NUMERALS, "content_filter", form).outcome == "refusal"
    assert parse_answer("Answer: 3", NUMERALS, "length").answer is None


# ---- laws ---------------------------------------------------------------------------------

PROMPT_SETS = pytest.mark.parametrize(
    "words", [open_prompt_set(name) for name in shipped()], ids=shipped()
)
LABEL_SETS = st.sampled_from([NUMERALS, CLOTHES, CAPITALS, KANA]) | st.lists(
    st.text("abcdeiknorstyABI039éж", min_size=1, max_size=6), min_size=2, unique_by=str.casefold
).map(tuple)
ALPHABET = "Answer: 037\n\"'()答えは。"
SENTENCES = [text for text, _ in [*DIGITS, *JAPANESE, *WORDS, *LETTERS]] + BACKGROUND
FRAGMENTS = [
    *("answer", "Answer:", "答え", "答えは", "です", "の", "digit", "the ", "a ", "is ", "it is "),
    *("not ", "values of ", "背景", "or ", "か", "\\boxed{", "}", '"', "'", "(", ")", "[", "]"),
    *("「", "」", "<", ">", "3", "8", "0.3", "-", ":", "\n", " ", "*", "_", "`", "$", ".", ","),
    *("one ", "一", "A", "i ", "Shirt", "Ankle ", "boot", "name(array) -> ", "<think>", "</think>"),
    *('{"label": ', "ﾞ\u0301", "İ", "ı", "ß", "\u200b", "\nArray:"),
    *("<|im_end|>", "<|im_start|>user\n", "<|channel|>final<|message|>", "\nuser\n", "</s>"),
]
PRIOR = st.sampled_from([each for each in SENTENCES if "Array:" not in each]) | st.text(ALPHABET)
FRAGMENTED_TEXTS = st.lists(st.sampled_from(FRAGMENTS), max_size=30).map("".join)


@PROMPT_SETS
@given(
    labels=LABEL_SETS,
    prior=st.lists(PRIOR).map("\n".join).map("{}\nTo conclude.".format),
    data=st.data(),
)
def test_the_final_line_counts(
    words: PromptSet, labels: tuple[str, ...], prior: str, data: st.DataObject
) -> None:
    """A final line in the requested form is parsed, whatever the reply says before it."""
    label = data.draw(st.sampled_from(labels))
    for text in (words.reply(label), f"{prior}\n{words.reply(label)}", f"{words.reply(label)}.\n"):
        assert parse_answer(text, labels) == ParsedAnswer(label, "ok")
        assert parse_answer(text, labels, form=words.answer) == ParsedAnswer(label, "ok")


@PROMPT_SETS
@given(labels=LABEL_SETS, data=st.data())
def test_full_width_final_line(
    words: PromptSet, labels: tuple[str, ...], data: st.DataObject
) -> None:
    """A final line in full-width characters is parsed like the plain one."""
    label = data.draw(st.sampled_from(labels))
    wide = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
    assert parse_answer(words.reply(label).translate(wide), labels) == ParsedAnswer(label, "ok")


@given(
    text=st.text() | FRAGMENTED_TEXTS,
    labels=LABEL_SETS,
    form=st.sampled_from([None, "Pick {label}.", "{label}"]),
)
@example(text="Answer: ı", labels=("i", "j"), form=None)
@example(text="ﷺ" * 99, labels=NUMERALS, form=None)
def test_every_text_can_be_parsed(text: str, labels: tuple[str, ...], form: str | None) -> None:
    """Every text has one of the labels as its answer, or None and an outcome."""
    parsed = parse_answer(text, labels, form=form)
    assert (parsed.outcome == "ok") == (parsed.answer is not None)
    assert parsed.answer is None or parsed.answer in labels


@given(text=FRAGMENTED_TEXTS)
def test_the_final_text_is_final(text: str) -> None:
    """The answer is the same in the reply and in its final text, as later requests show it."""
    final = final_text(text, NUMERALS)
    assert final_text(final.text, NUMERALS).text == final.text
    assert parse_answer(final.text, NUMERALS) == parse_answer(text, NUMERALS)


@given(text=FRAGMENTED_TEXTS)
def test_label_order(text: str) -> None:
    """The order of the labels does not matter."""
    assert parse_answer(text, NUMERALS).answer == parse_answer(text, NUMERALS[::-1]).answer


@given(
    first=st.sampled_from(NUMERALS),
    second=st.sampled_from(NUMERALS),
    words=st.sampled_from(shipped()),
)
def test_consecutive_final_lines(first: str, second: str, words: str) -> None:
    """Two consecutive final lines must agree; with text between them, the last one counts."""
    reply = open_prompt_set(words).reply
    expected = first if first == second else None
    assert parse_answer(f"{reply(first)}\n\n{reply(second)}", NUMERALS).answer == expected
    assert (
        parse_answer(f"{reply(first)}\nOn second thoughts.\n{reply(second)}", NUMERALS).answer
        == second
    )


@pytest.mark.parametrize(
    ("form", "text", "expected"),
    [
        ("My pick = {label}.", "My pick = 3.", "3"),
        ("My pick = {label}.", "the 5 is out\n**My pick = 3**", "3"),
        ("My pick = {label}.", "Answer: 3", "3"),
        ("My pick = {label}.", "Answer: 5\nMy pick = 3.", "unreadable"),
        ("My pick = {label}.", "My pick = 3 or 5.", "unreadable"),
        ("My pick = {label}.", "My pick =", "unreadable"),
        ("My pick = {label}.", "My pick = 12.", "out_of_set"),
        ("I pick {label}", "I picked 3", "unreadable"),
        ("Answer:\n{label}", "Answer:\n3", "3"),
        ("{label}", "I see the 5 of a kind.\n3", "3"),
        ("{label} と答えます", "3 と答えます", "3"),
    ],
)
def test_custom_form(form: str, text: str, expected: str) -> None:
    """The final line of a user's prompt set is recognised besides the usual forms."""
    parsed = parse_answer(text, NUMERALS, form=form)
    assert (parsed.answer or parsed.outcome) == expected


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (("3", "３"), "'３' cannot be told from the label '3'"),
        (("**cat**", "cat"), "cannot be told from"),
        (("+", "-"), r"a label needs a letter or a digit, got '\+'"),
        (("", "x"), "a label needs a letter or a digit, got ''"),
    ],
)
def test_ambiguous_labels(labels: tuple[str, ...], reason: str) -> None:
    """Labels that cannot be told apart, or that have no letter or digit, are rejected."""
    with pytest.raises(InputError, match=reason):
        parse_answer("", labels)


@pytest.mark.parametrize("labels", [("a", "A"), ("-1", "1"), ("C", "C++", "C#"), ("U.S.", "U.K.")])
def test_similar_labels(labels: tuple[str, ...]) -> None:
    """Labels that differ only in case or punctuation are told apart."""
    assert [parse_answer(f"Answer: {label}", labels).answer for label in labels] == list(labels)
    assert [parse_answer(f'It is "{label}".', labels).answer for label in labels] == list(labels)


@pytest.mark.timeout(20)
@pytest.mark.parametrize("before", ["", "Answer: "])
@pytest.mark.parametrize(
    "piece",
    [
        *(
            '"',
            "(",
            " ",
            "\n",
            "3",
            "3 ",
            "-",
            "*",
            'not "3" ',
            "Answer: ",
            "Answer:\n",
            ". Answer: ",
        ),
        *(
            "it is a 3 but ",
            "values of ",
            "答え",
            "\u0315\u0300",
            "ﾞ\u0300",
            "ﷺ",
            "\\boxed{",
            "3 or ",
            "</think>",
            "<think>",
            "<|im_end|>",
            "<|im_end|><|im_start|>user\n",
            "\nuser\n",
            "Answer: 3\nuser\n",
        ),
    ],
)
def test_adversarial_text_takes_linear_time(piece: str, before: str) -> None:
    """A megabyte of adversarial text is parsed in linear time, with no backtracking."""
    parsed = parse_answer(before + piece * (1_000_000 // len(piece)) + " x", NUMERALS)
    assert parsed.answer in {None, "3"}
